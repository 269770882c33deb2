"""AVX2: 256-bit vectors."""

from __future__ import annotations

from pipeline.kernels.isa.x86.sse41 import SSE41, PairwiseInstructionSet

AVX2 = PairwiseInstructionSet.extending(
    SSE41,
    "avx2",
    lanes=8,
    fuses_multiply_add=True,
    vpmaddwd="llvm.x86.avx2.pmadd.wd",
    vpackssdw="llvm.x86.avx2.packssdw",
    vpackuswb="llvm.x86.avx2.packuswb",
)
