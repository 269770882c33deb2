"""From a program to the code of a shared library."""
