"""Vectors of x86, of all widths.

`vpmaddwd` multiplies 16-bit values and sums neighbouring products into int32, exactly. `vpmaddubsw`, which takes bytes,
saturates its sums to 16 bits: it is exact for weights that were chosen for it (`gemm/pairing.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import Array, InstructionSet
from pipeline.kernels.lib.modular import modular_add, modular_functions
from pipeline.kernels.lib.vectors import interleave, lanes_of, part, repeated, splat, vector_type
from pipeline.ops import QAdd

MIN_MAGNITUDE = 2
"""Has `vrangeps` return the operand of the smaller magnitude, with the first one's sign."""

CURRENT_ROUNDING = 4
"""Has an instruction round as all others do."""


@dataclass(frozen=True, kw_only=True)
class X86InstructionSet(InstructionSet):
    """What x86 vectors of all widths do alike, by LLVM's names of the instructions for one width.

    Attributes:
        vpmaddwd: sums of two products of 16-bit values.
        vpackssdw, vpackuswb: narrow two vectors to int16 and uint8, with saturation.
        vpshufb: looks bytes up in 16 others, within each 128 bits.
        vrangeps: takes one of two floats, by their magnitudes; "" if there is no such instruction.
    """

    vpmaddwd: str
    vpackssdw: str
    vpackuswb: str
    vpshufb: str
    vrangeps: str = ""

    def ramp(self, value: Any, limit: float) -> Any:
        """Return the ramp, by an instruction of AVX-512 that takes the smaller one of two magnitudes.

        Without it, what is below 0 or above twice the limit is cut off behind the sum, which gives the same, as
        rounding keeps the order; instructions for integers do it, as floats of 0 or more are in the order of their
        bits. AMD's Zen 4 starts two of these in a cycle, where it starts one of those for floats.

        See the base class.
        """
        lanes = lanes_of(value)
        limits = splat(T.float32(limit), lanes)
        if self.vrangeps and lanes == self.lanes:
            operands = value, limits, T.int32(MIN_MAGNITUDE), value, T.int16(-1), T.int32(CURRENT_ROUNDING)
            return T.call_llvm_pure_intrin(vector_type("float32", lanes), self.vrangeps, *operands) + limits
        bits = T.max(T.reinterpret(vector_type("int32", lanes), value + limits), splat(T.int32(0), lanes))
        highest = splat(T.int32(int(np.float32(2 * limit).view("int32"))), lanes)
        return T.reinterpret(vector_type("float32", lanes), T.min(bits, highest))

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

    def weighted_sum(self, left: Any, right: Any, operator: QAdd) -> Any:
        """Return `qnn.add(left, right)`, both products at once by `vpmaddwd`; see the base class."""
        octets, words, count = 4 * self.lanes, 2 * self.lanes, lanes_of(left)
        few, large = count <= 2 * self.lanes, max(abs(operator.a_multiplier), abs(operator.b_multiplier)) >= 1 << 15
        if few or count > octets or large:
            return super().weighted_sum(left, right, operator)
        left, right = repeated(left, octets), repeated(right, octets)
        zeros = T.broadcast(T.uint8(0), octets)
        halves = interleave(left, right, "uint8", octets)
        pairs = [pair for half in halves for pair in interleave(half, zeros, "uint8", octets)]
        both = T.int32((operator.b_multiplier << 16) + (operator.a_multiplier & 0xFFFF))
        multipliers = T.reinterpret(f"int16x{words}", T.broadcast(both, self.lanes))
        zero = operator.a_zero_point * operator.a_multiplier + operator.b_zero_point * operator.b_multiplier
        offset = T.broadcast(T.int32((1 << (operator.shift - 1)) - zero), self.lanes)
        shift = T.broadcast(T.int32(operator.shift), self.lanes)
        sums = [self.dot_pairs(offset, T.reinterpret(f"int16x{words}", pair), multipliers) for pair in pairs]
        bounds = operator.output_zero_point, operator.output_min, operator.output_max
        return part(self.saturate_interleaved([T.shift_right(s, shift) for s in sums], *bounds), 0, count)

    def dot_int16(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of two products; see the base class."""
        return self.dot_pairs(acc, self._pair(activations), T.cast(weights, f"int16x{2 * self.lanes}"))

    def functions(self) -> AbstractContextManager[Any]:
        """Return the context in which LLVM knows additions that may overflow; see the base class."""
        lanes = [isa.lanes for isa in (self, self.half) if isa is not None]
        functions = "\n".join(modular_functions(n) for n in lanes)
        context: AbstractContextManager[Any] = T.attr(T.int32(0), "pragma_import_llvm", functions)
        return context

    def multiply_words(self, acc: Sequence[Any], activations: Any, step: int, weights: Any) -> list[Any]:
        """Return the accumulator plus the sums of two products; see the base class."""
        (sums,) = acc
        product = T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpmaddwd, self._pair(activations), weights)
        return [modular_add(sums, product)]

    def _pair(self, activations: Any) -> Any:
        """Return two neighbouring int16 values in every lane."""
        return T.reinterpret(f"int16x{2 * self.lanes}", T.broadcast(T.reinterpret("int32", activations), self.lanes))

    def dot_pairs(self, acc: Any, left: Any, right: Any) -> Any:
        """Return `acc` plus the sums of two products of int16 values in each of `lanes` lanes."""
        return acc + T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpmaddwd, left, right)

    def arrange_table(self, table: Array) -> Array:
        """Return 16 vectors of 16 entries each, which `lookup` combines; see the base class.

        Each but the first of either half is the difference (exclusive or) from the one before. It stands in each 128
        bits.
        """
        if self.table_vectors == 0:
            return super().arrange_table(table)
        rows = table.reshape(*table.shape[:-1], 2, 8, 16)
        first, others = rows[..., :1, :], rows[..., 1:, :] ^ rows[..., :-1, :]
        copies = np.tile(np.concatenate([first, others], axis=-2), self.lanes // 4)
        return copies.reshape(*table.shape[:-1], -1)

    def lookup(self, indices: Any, table: Sequence[Any]) -> Any:
        """Return the table's entries, by 16 shuffles; see the base class.

        `vpshufb` takes an index's low 4 bits, and gives 0 for a negative one. Subtracting 16 for each row, with
        saturation, leaves indices negative once they are, so rows 0 to x // 16 answer, all with entry x % 16. As rows
        are differences, what they answer adds up to the last one's entry. Bytes are signed here, so the table's halves
        are done separately, the upper one with the sign flipped.
        """
        if self.table_vectors == 0:
            return super().lookup(indices, table)
        octets, lanes = 4 * self.lanes, lanes_of(indices)
        unsigned, signed = f"uint8x{octets}", f"int8x{octets}"
        every = repeated(indices, octets)

        def next_row(index: Any) -> Any:
            sixteen = T.broadcast(T.int8(16), octets)
            left = T.call_llvm_pure_intrin(signed, f"llvm.ssub.sat.v{octets}i8", T.reinterpret(signed, index), sixteen)
            return T.reinterpret(unsigned, left)

        entries = []
        for half, first in enumerate((every, T.bitwise_xor(every, T.broadcast(T.uint8(128), octets)))):
            index = first
            for row in table[8 * half : 8 * half + 8]:
                entries.append(T.call_llvm_pure_intrin(unsigned, self.vpshufb, row, index))
                index = next_row(index)
        return part(functools.reduce(T.bitwise_xor, entries), 0, lanes)


@dataclass(frozen=True, kw_only=True)
class PairwiseInstructionSet(X86InstructionSet):
    """x86 without VNNI: four values are multiplied as two pairs, of 16-bit values or, where that's exact, of bytes.

    16-bit pairs are the even and the odd bytes, as those are quickest to widen: by a mask and by a shift.

    Attributes:
        vpmaddubsw: LLVM's name of the instruction for this width.
    """

    vpmaddubsw: str

    def arrange(self, weights: Array) -> Array:
        """Return the weights of even values first, and then those of odd ones; see the base class."""
        pairs = weights.reshape(*weights.shape[:-1], 2, 2)
        return np.asarray(np.moveaxis(pairs, -1, -3).reshape(*weights.shape[:-2], -1))

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products; see the base class."""
        return self.dot_lanes(acc, T.broadcast(T.reinterpret("int32", activations), self.lanes), weights)

    def dot_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products in each lane; see the base class."""
        words = 2 * self.lanes
        four = T.reinterpret(f"uint16x{words}", activations)
        even = T.bitwise_and(four, T.broadcast(T.uint16(255), words))
        odd = T.shift_right(four, T.broadcast(T.uint16(8), words))
        for half, pairs in enumerate((even, odd)):
            operands = T.reinterpret(f"int16x{words}", pairs), part(weights, half * words, words)
            acc = self.dot_pairs(acc, *operands)
        return acc

    def dot_even_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return what `dot_lanes` returns if the weights of odd values are zero, in half of the instructions."""
        words = 2 * self.lanes
        even = T.bitwise_and(T.reinterpret(f"uint16x{words}", activations), T.broadcast(T.uint16(255), words))
        return self.dot_pairs(acc, T.reinterpret(f"int16x{words}", even), part(weights, 0, words))

    def dot_int4(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products, two of which never leave int16; see the base class."""
        return self.dot_bytes(acc, activations, weights)

    def dot_bytes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return what `dot` returns, in half of the instructions, if no sum of two neighbouring products leaves int16.

        Args:
            acc: int32 vector of `lanes`.
            activations: uint8 vector of four neighbouring values of one pixel, the same for all lanes.
            weights: int8 vector of `lanes * 4`, for each lane its four values together.
        """
        words, octets = f"int16x{2 * self.lanes}", f"uint8x{4 * self.lanes}"
        four = T.reinterpret(octets, T.broadcast(T.reinterpret("int32", activations), self.lanes))
        pairs = T.call_llvm_pure_intrin(words, self.vpmaddubsw, four, weights)
        return self.dot_pairs(acc, pairs, T.broadcast(T.int16(1), 2 * self.lanes))

    def shuffle(self, values: Any, order: Any) -> Any:
        """Return bytes in another order, within each 16.

        Args:
            values: uint8 vector of `lanes * 4`.
            order: uint8 vector of the same length: which of its 16 bytes stands in each place.
        """
        return T.call_llvm_pure_intrin(f"uint8x{4 * self.lanes}", self.vpshufb, values, order)


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

    def multiply_words(self, acc: Sequence[Any], activations: Any, step: int, weights: Any) -> list[Any]:
        """Return the accumulator plus the sums of two products, which `vpdpwssd` lets overflow; see the base class."""
        (sums,) = acc
        return [self.dot_pairs(sums, self._pair(activations), weights)]

    def dot_pairs(self, acc: Any, left: Any, right: Any) -> Any:
        """Return `acc` plus the sums of two products; see the base class."""
        return T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.vpdpwssd, acc, left, right)


@dataclass(frozen=True, kw_only=True)
class VbmiInstructionSet(VnniInstructionSet):
    """x86 with permutations of bytes."""

    def arrange_table(self, table: Array) -> Array:
        """Return a table as it is; see the base class."""
        return table

    def lookup(self, indices: Any, table: Sequence[Any]) -> Any:
        """Return the table's entries; see the base class.

        Each half of the table is two registers, whose 128 bytes the low 7 bits of an index choose from.
        """
        octets, lanes = 4 * self.lanes, lanes_of(indices)
        index = repeated(indices, octets)

        def half(first: Any, second: Any) -> Any:
            return T.call_llvm_pure_intrin(f"uint8x{octets}", "llvm.x86.avx512.vpermi2var.qi.512", first, index, second)

        upper = index >= T.broadcast(T.uint8(128), octets)
        return part(T.Select(upper, half(*table[2:]), half(*table[:2])), 0, lanes)
