"""The instruction sets of x86: each extends another, and names what it has instead, or in addition."""

from __future__ import annotations

from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.isa.portable import PORTABLE
from pipeline.kernels.isa.x86.amx import MatrixInstructionSet
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet, VbmiInstructionSet, VnniInstructionSet

SSE41 = PairwiseInstructionSet.extending(
    PORTABLE,
    "sse41",
    adding=[Capability.LANE_DOT_PRODUCTS, Capability.WORD_PRODUCTS],
    dot_depth=4,
    int16_depth=2,
    weight_dtype="int16",
    saturate_vectors=4,
    vpmaddwd="llvm.x86.sse2.pmadd.wd",
    vpmaddubsw="llvm.x86.ssse3.pmadd.ub.sw.128",
    vpackssdw="llvm.x86.sse2.packssdw.128",
    vpackuswb="llvm.x86.sse2.packuswb.128",
    vpshufb="llvm.x86.ssse3.pshuf.b.128",
)
"""128-bit vectors. Looking 16 bytes up by shuffles isn't quicker than by loads, so there is no table lookup."""

AVX2 = PairwiseInstructionSet.extending(
    SSE41,
    "avx2",
    adding=[Capability.FUSED_MULTIPLY_ADD, Capability.TABLE_LOOKUP],
    lanes=8,
    table_vectors=16,
    vpmaddwd="llvm.x86.avx2.pmadd.wd",
    vpmaddubsw="llvm.x86.avx2.pmadd.ub.sw",
    vpackssdw="llvm.x86.avx2.packssdw",
    vpackuswb="llvm.x86.avx2.packuswb",
    vpshufb="llvm.x86.avx2.pshuf.b",
)
"""256-bit vectors."""

AVX_VNNI = VnniInstructionSet.extending(
    AVX2,
    "avx_vnni",
    weight_dtype="int8",
    vpdpbusd="llvm.x86.avx512.vpdpbusd.256",
    vpdpwssd="llvm.x86.avx512.vpdpwssd.256",
)
"""`vpdpbusd` sums four unsigned by signed products into each of 8 int32 lanes."""

AVX512 = PairwiseInstructionSet.extending(
    AVX2,
    "avx512",
    lanes=16,
    registers=32,
    vpmaddwd="llvm.x86.avx512.pmaddw.d.512",
    vpmaddubsw="llvm.x86.avx512.pmaddubs.w.512",
    vpackssdw="llvm.x86.avx512.packssdw.512",
    vpackuswb="llvm.x86.avx512.packuswb.512",
    vpshufb="llvm.x86.avx512.pshuf.b.512",
    vrangeps="llvm.x86.avx512.mask.range.ps.512",
)
"""512-bit vectors, 32 of them."""

AVX512_VNNI = VnniInstructionSet.extending(
    AVX512,
    "avx512_vnni",
    weight_dtype="int8",
    half=AVX_VNNI,
    vpdpbusd="llvm.x86.avx512.vpdpbusd.512",
    vpdpwssd="llvm.x86.avx512.vpdpwssd.512",
)
"""`vpdpbusd` sums four unsigned by signed products into each of 16 int32 lanes.

AMD's Zen 4 computes 512 bits in two halves. Elsewhere half a vector takes as long as a whole one, and never longer.
"""

AVX512_VBMI = VbmiInstructionSet.extending(
    AVX512_VNNI, "avx512_vbmi", adding=[Capability.FUSED_LOOKUP], table_vectors=4
)
"""A table of 256 bytes in four registers, and `vpermi2b`, which looks 64 bytes up in two of them."""

AMX_INT8 = MatrixInstructionSet.extending(
    AVX512_VBMI, "amx_int8", adding=[Capability.MATRIX_REGISTERS], pixels_together=16
)
"""Eight matrix registers of 16 rows by 64 bytes, and `tdpbusd`, which multiplies two of them.

Whatever has no matrix registers in it, is computed as on AVX512-VBMI, which all CPUs with AMX have.
"""
