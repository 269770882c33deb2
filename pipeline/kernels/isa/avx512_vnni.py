"""AVX512-VNNI: `vpdpbusd` sums four unsigned by signed products into each of 16 int32 lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.avx512 import AVX512
from pipeline.kernels.isa.sse41 import X86InstructionSet


@dataclass(frozen=True)
class _Vnni(X86InstructionSet):
    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products; see the base class."""
        four = T.broadcast(T.reinterpret("int32", activations), self.lanes)
        return self.dot_lanes(acc, T.reinterpret("uint8x64", four), weights)

    def dot_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products in each lane; see the base class."""
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", acc, activations, weights)


AVX512_VNNI = _Vnni(
    name="avx512_vnni",
    parent=AVX512,
    lanes=AVX512.lanes,
    registers=AVX512.registers,
    dot_depth=4,
    saturate_vectors=AVX512.saturate_vectors,
    vpmaddwd=AVX512.vpmaddwd,
    vpackssdw=AVX512.vpackssdw,
    vpackuswb=AVX512.vpackuswb,
)
