"""The loop nest of convolutions and matrix products, and how it is cut."""
