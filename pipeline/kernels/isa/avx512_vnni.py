"""AVX512-VNNI: `vpdpbusd` sums four unsigned by signed products into each of 16 int32 lanes."""

from __future__ import annotations

from pipeline.kernels.isa.avx512 import AVX512
from pipeline.kernels.isa.avx_vnni import VnniInstructionSet

AVX512_VNNI = VnniInstructionSet(
    name="avx512_vnni",
    parent=AVX512,
    lanes=AVX512.lanes,
    registers=AVX512.registers,
    dot_depth=4,
    saturate_vectors=AVX512.saturate_vectors,
    fuses_multiply_add=True,
    vpmaddwd=AVX512.vpmaddwd,
    vpackssdw=AVX512.vpackssdw,
    vpackuswb=AVX512.vpackuswb,
    vpdpbusd="llvm.x86.avx512.vpdpbusd.512",
    vpdpwssd="llvm.x86.avx512.vpdpwssd.512",
)
