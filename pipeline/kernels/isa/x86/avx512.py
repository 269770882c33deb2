"""AVX512: 512-bit vectors, 32 of them."""

from __future__ import annotations

from pipeline.kernels.isa.x86.avx2 import AVX2
from pipeline.kernels.isa.x86.sse41 import PairwiseInstructionSet

AVX512 = PairwiseInstructionSet.extending(
    AVX2,
    "avx512",
    lanes=16,
    registers=32,
    vpmaddwd="llvm.x86.avx512.pmaddw.d.512",
    vpackssdw="llvm.x86.avx512.packssdw.512",
    vpackuswb="llvm.x86.avx512.packuswb.512",
)
