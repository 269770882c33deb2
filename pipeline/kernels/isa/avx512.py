"""AVX512: 512-bit vectors, 32 of them."""

from __future__ import annotations

from pipeline.kernels.isa.avx2 import AVX2
from pipeline.kernels.isa.sse41 import PairwiseInstructionSet

AVX512 = PairwiseInstructionSet(
    name="avx512",
    parent=AVX2,
    lanes=16,
    registers=32,
    dot_depth=4,
    weight_dtype="int16",
    saturate_vectors=4,
    fuses_multiply_add=True,
    vpmaddwd="llvm.x86.avx512.pmaddw.d.512",
    vpackssdw="llvm.x86.avx512.packssdw.512",
    vpackuswb="llvm.x86.avx512.packuswb.512",
)
