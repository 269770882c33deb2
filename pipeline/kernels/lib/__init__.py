"""What kernels are written with: loops, vectors, requantization, padding."""
