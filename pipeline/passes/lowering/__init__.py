"""Passes on the way from programs to kernels, for float and int8 programs alike."""
