"""AVX-VNNI: `vpdpbusd` sums four unsigned by signed products into each of 8 int32 lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.x86.avx2 import AVX2
from pipeline.kernels.isa.x86.sse41 import X86InstructionSet


@dataclass(frozen=True, kw_only=True)
class VnniInstructionSet(X86InstructionSet):
    """x86 with four-fold dot products of bytes.

    Attributes:
        vpdpbusd, vpdpwssd: LLVM's names of the instructions for this width.
    """

    vpdpbusd: str
    vpdpwssd: str

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products; see the base class."""
        four = T.broadcast(T.reinterpret("int32", activations), self.lanes)
        return self.dot_lanes(acc, T.reinterpret(f"uint8x{4 * self.lanes}", four), weights)

    def dot_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products in each lane; see the base class."""
        return T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpdpbusd, acc, activations, weights)

    def dot_pairs(self, acc: Any, left: Any, right: Any) -> Any:
        """Return `acc` plus the sums of two products; see the base class."""
        return T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpdpwssd, acc, left, right)


AVX_VNNI = VnniInstructionSet.extending(
    AVX2,
    "avx_vnni",
    weight_dtype="int8",
    vpdpbusd="llvm.x86.avx512.vpdpbusd.256",
    vpdpwssd="llvm.x86.avx512.vpdpwssd.256",
)
