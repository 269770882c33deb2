"""Passes towards kernels, over float and int8 programs alike."""
