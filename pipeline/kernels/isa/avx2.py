"""AVX2: 256-bit vectors. `vpmaddwd` multiplies 16-bit values and sums neighbouring products into int32, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.base import InstructionSet
from pipeline.kernels.isa.portable import PORTABLE


@dataclass(frozen=True)
class X86InstructionSet(InstructionSet):
    """What AVX2 and AVX512 do alike, by LLVM's names of the instructions for the vector width.

    Attributes:
        vpmaddwd: sums of two products of 16-bit values. (`vpmaddubsw`, which takes bytes, saturates its sums to 16
            bits and so isn't exact.)
        vpackssdw, vpackuswb: narrow two vectors to int16 and uint8, with saturation.
    """

    vpmaddwd: str = ""
    vpackssdw: str = ""
    vpackuswb: str = ""

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of two products; see the base class."""
        pair = T.reinterpret("int32", T.cast(activations, "int16x2"))
        pairs = T.reinterpret(f"int16x{2 * self.lanes}", T.broadcast(pair, self.lanes))
        return acc + T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpmaddwd, pairs, weights)

    def saturate(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return `uint8(clamp(values + zero_point, low, high))`, packing four vectors; see the base class.

        Packing works within 128 bits, so the result's dwords are transposed: 128-bit part by vector instead of vector
        by part.
        """
        if len(values) != self.saturate_vectors:
            return super().saturate(values, zero_point, low, high)
        packed = self.saturate_interleaved(values, zero_point, low, high)
        order = [4 * part + vector for vector in range(4) for part in range(self.lanes // 4)]
        dwords = T.Shuffle([T.reinterpret(f"int32x{self.lanes}", packed)], order)
        return T.reinterpret(f"uint8x{4 * self.lanes}", dwords)

    def saturate_interleaved(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return four packed vectors; see the base class.

        Saturating to 16 bits on the way changes nothing, as the result lies in 0..255 in any case.
        """
        words, octets = f"int16x{2 * self.lanes}", f"uint8x{4 * self.lanes}"
        halves = [T.call_llvm_pure_intrin(words, self.vpackssdw, *values[i : i + 2]) for i in (0, 2)]
        offset = T.broadcast(T.int16(zero_point), 2 * self.lanes)
        shifted = [T.call_llvm_pure_intrin(words, f"llvm.sadd.sat.v{2 * self.lanes}i16", h, offset) for h in halves]
        result = T.call_llvm_pure_intrin(octets, self.vpackuswb, *shifted)
        if high < 255:
            result = T.min(result, T.broadcast(T.uint8(high), 4 * self.lanes))
        return T.max(result, T.broadcast(T.uint8(low), 4 * self.lanes)) if low > 0 else result


AVX2 = X86InstructionSet(
    name="avx2",
    parent=PORTABLE,
    lanes=8,
    registers=16,
    dot_depth=2,
    weight_dtype="int16",
    saturate_vectors=4,
    vpmaddwd="llvm.x86.avx2.pmadd.wd",
    vpackssdw="llvm.x86.avx2.packssdw",
    vpackuswb="llvm.x86.avx2.packuswb",
)
