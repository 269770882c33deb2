"""AVX512: 512-bit vectors."""

from __future__ import annotations

from pipeline.kernels.isa.avx2 import AVX2
from pipeline.kernels.isa.base import InstructionSet

AVX512 = InstructionSet(name="avx512", parent=AVX2, lanes=16, registers=32)
