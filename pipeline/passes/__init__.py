"""Passes from program to program, one a file: over float programs after import, and towards kernels."""
