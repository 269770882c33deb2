"""Winograd's convolutions of 3x3 in integers, which give the same bits as direct ones."""
