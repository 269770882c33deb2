"""PORTABLE: the vector arithmetic that every target has, 128 bits wide."""

from __future__ import annotations

from pipeline.kernels.isa.contract import InstructionSet

PORTABLE = InstructionSet(name="portable", parent=None, lanes=4, registers=16)
