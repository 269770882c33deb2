"""AVX512: 512-bit vectors, 32 of them."""

from __future__ import annotations

from pipeline.kernels.isa.avx2 import AVX2, PairwiseMultiplyAdd

AVX512 = PairwiseMultiplyAdd(
    name="avx512",
    parent=AVX2,
    lanes=16,
    registers=32,
    dot_depth=2,
    weight_dtype="int16",
    intrinsic="llvm.x86.avx512.pmaddw.d.512",
)
