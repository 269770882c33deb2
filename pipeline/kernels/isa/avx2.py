"""AVX2: 256-bit vectors."""

from __future__ import annotations

from pipeline.kernels.isa.base import InstructionSet
from pipeline.kernels.isa.portable import PORTABLE

AVX2 = InstructionSet(name="avx2", parent=PORTABLE, lanes=8, registers=16)
