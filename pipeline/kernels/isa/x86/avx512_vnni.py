"""AVX512-VNNI: `vpdpbusd` sums four unsigned by signed products into each of 16 int32 lanes."""

from __future__ import annotations

from pipeline.kernels.isa.x86.avx512 import AVX512
from pipeline.kernels.isa.x86.avx_vnni import VnniInstructionSet

AVX512_VNNI = VnniInstructionSet.extending(
    AVX512,
    "avx512_vnni",
    weight_dtype="int8",
    vpdpbusd="llvm.x86.avx512.vpdpbusd.512",
    vpdpwssd="llvm.x86.avx512.vpdpwssd.512",
)
