"""AVX2: 256-bit vectors."""

from __future__ import annotations

from pipeline.kernels.isa.sse41 import SSE41, PairwiseInstructionSet

AVX2 = PairwiseInstructionSet(
    name="avx2",
    parent=SSE41,
    lanes=8,
    registers=16,
    dot_depth=4,
    weight_dtype="int16",
    saturate_vectors=4,
    fuses_multiply_add=True,
    vpmaddwd="llvm.x86.avx2.pmadd.wd",
    vpackssdw="llvm.x86.avx2.packssdw",
    vpackuswb="llvm.x86.avx2.packuswb",
)
