"""TIR kernels for the operators of `ops`. Nothing here knows Relax. `registry` lists them."""
