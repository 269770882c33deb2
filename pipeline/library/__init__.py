"""What a shared library is: how it is linked, what it says about itself, and how both are read."""
