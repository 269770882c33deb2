"""TIR kernels for the operators of `ops`, listed in `registry`. Nothing here uses Relax."""
