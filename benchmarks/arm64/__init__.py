"""What arm64 libraries execute, instruction by instruction, beside the peers' arm64 wheels; see `__main__`."""
