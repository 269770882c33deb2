"""Passes, functions from a program to a program, one in each file.

`float` has the passes over float programs after import, `lowering` those on the way to kernels.
"""
