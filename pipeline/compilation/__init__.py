"""Compile: a program becomes kernels, machine code, and one shared library for each target."""
