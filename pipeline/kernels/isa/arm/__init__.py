"""Instruction sets of arm64."""
