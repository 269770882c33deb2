"""Building blocks of kernels: loops, vectors, requantization, padding."""
