"""The operators that programs are made of, beside Relax's own."""
