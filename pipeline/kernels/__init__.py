"""TIR kernels for the dialect's operators. Nothing here knows Relax."""
