"""NEON: 128-bit vectors with 32 registers (arm64 without dot products)."""

from __future__ import annotations

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.portable import PORTABLE

NEON = InstructionSet.extending(PORTABLE, "neon", registers=32)
