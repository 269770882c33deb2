"""An executor of realized programs in NumPy, the oracle that every compiled kernel is held against."""
