"""SSE4.1, and what all x86 vectors have in common.

`vpmaddwd` multiplies 16-bit values and sums neighbouring products into int32, exactly. `vpmaddubsw`, which takes bytes,
saturates its sums to 16 bits and so isn't exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import Array, InstructionSet
from pipeline.kernels.isa.portable import PORTABLE
from pipeline.kernels.lib.vectors import interleave, lanes_of, part
from pipeline.ops import QAdd


@dataclass(frozen=True, kw_only=True)
class X86InstructionSet(InstructionSet):
    """What x86 vectors of all widths do alike, by LLVM's names of the instructions for one width.

    Attributes:
        vpmaddwd: sums of two products of 16-bit values.
        vpackssdw, vpackuswb: narrow two vectors to int16 and uint8, with saturation.
    """

    vpmaddwd: str
    vpackssdw: str
    vpackuswb: str

    def saturate(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return `uint8(clamp(values + zero_point, low, high))`, packing four vectors; see the base class.

        Packing works within 128 bits, so the result's dwords are transposed: 128-bit part by vector instead of vector
        by part.
        """
        count = len(values)
        if lanes_of(values[0]) != self.lanes:
            return super().saturate(values, zero_point, low, high)
        packed = self.saturate_interleaved([*values, *[values[-1]] * (4 - count)], zero_point, low, high)
        order = [4 * part + vector for vector in range(4) for part in range(self.lanes // 4)]
        dwords = T.Shuffle([T.reinterpret(f"int32x{self.lanes}", packed)], order)
        return part(T.reinterpret(f"uint8x{4 * self.lanes}", dwords), 0, count * self.lanes)

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

    def weighted_sum(self, left: Any, right: Any, attrs: QAdd) -> Any:
        """Return `qnn.add(left, right)`, both products at once by `vpmaddwd`; see the base class."""
        octets, words = 4 * self.lanes, 2 * self.lanes
        if lanes_of(left) != octets or max(abs(attrs.a_multiplier), abs(attrs.b_multiplier)) >= 1 << 15:
            return super().weighted_sum(left, right, attrs)
        zeros = T.broadcast(T.uint8(0), octets)
        halves = interleave(left, right, "uint8", octets)
        pairs = [pair for half in halves for pair in interleave(half, zeros, "uint8", octets)]
        both = T.int32((attrs.b_multiplier << 16) + (attrs.a_multiplier & 0xFFFF))
        multipliers = T.reinterpret(f"int16x{words}", T.broadcast(both, self.lanes))
        zero = attrs.a_zero_point * attrs.a_multiplier + attrs.b_zero_point * attrs.b_multiplier
        offset = T.broadcast(T.int32((1 << (attrs.shift - 1)) - zero), self.lanes)
        shift = T.broadcast(T.int32(attrs.shift), self.lanes)
        sums = [self.dot_pairs(offset, T.reinterpret(f"int16x{words}", pair), multipliers) for pair in pairs]
        bounds = attrs.output_zero_point, attrs.output_min, attrs.output_max
        return self.saturate_interleaved([T.shift_right(s, shift) for s in sums], *bounds)

    def dot_pairs(self, acc: Any, left: Any, right: Any) -> Any:
        """Return `acc` plus the sums of two products of int16 values in each of `lanes` lanes."""
        return acc + T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpmaddwd, left, right)


@dataclass(frozen=True)
class PairwiseInstructionSet(X86InstructionSet):
    """x86 without VNNI: four values are multiplied as two pairs of 16-bit values.

    The pairs are the even and the odd bytes, as those are quickest to widen: by a mask and by a shift.
    """

    def arrange(self, weights: Array) -> Array:
        """Return the weights of even values first, and then those of odd ones; see the base class."""
        pairs = weights.reshape(*weights.shape[:-1], 2, 2)
        return np.asarray(np.moveaxis(pairs, -1, -3).reshape(*weights.shape[:-2], -1))

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products; see the base class."""
        words = 2 * self.lanes
        four = T.reinterpret(f"uint16x{words}", T.broadcast(T.reinterpret("int32", activations), self.lanes))
        even = T.bitwise_and(four, T.broadcast(T.uint16(255), words))
        odd = T.shift_right(four, T.broadcast(T.uint16(8), words))
        for half, pairs in enumerate((even, odd)):
            operands = T.reinterpret(f"int16x{words}", pairs), part(weights, half * words, words)
            acc = self.dot_pairs(acc, *operands)
        return acc


SSE41 = PairwiseInstructionSet.extending(
    PORTABLE,
    "sse41",
    dot_depth=4,
    weight_dtype="int16",
    saturate_vectors=4,
    vpmaddwd="llvm.x86.sse2.pmadd.wd",
    vpackssdw="llvm.x86.sse2.packssdw.128",
    vpackuswb="llvm.x86.sse2.packuswb.128",
)
