"""NEON: 128-bit vectors with 32 registers (arm64 without dot products)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.arm.loads import ArmStream, held, load_functions, unknown
from pipeline.kernels.isa.contract import Array, Capability, InstructionSet, Stream
from pipeline.kernels.isa.portable import PORTABLE
from pipeline.kernels.lib.modular import modular_add
from pipeline.kernels.lib.vectors import fused_multiply_add, joined, lanes_of, part, repeated, splat, vector_type
from pipeline.ops import QAdd

MOST_NARROWING_SHIFT = 16
"""By how many bits 32-bit values can be shifted while they are narrowed."""

ROUNDING_OFFSET = 1.5 * 2.0**23
"""Added to a float32 of up to 22 bits, it leaves an integer in the lower bits, as the next float32 is one larger."""

POST_INDEX = 256
"""Bytes that a load of one register can't add to its address any more."""


@dataclass(frozen=True)
class NeonInstructionSet(InstructionSet):
    """What all of arm64 has.

    Products of bytes in pairs, rounding conversions, narrowing with saturation, and lookups in four registers.
    """

    def functions(self) -> AbstractContextManager[Any]:
        """Return the context in which LLVM knows the functions that `stream` calls; see the base class."""
        context: AbstractContextManager[Any] = load_functions()
        return context

    def stream(self, buffer: Any, start: Any) -> Stream:
        """Return vectors, which are loaded four by four; see the base class."""
        return ArmStream(buffer, start)

    def distance(self, count: int, size: int) -> Any:
        """Return a number of bytes; see the base class.

        A load of one register adds a small constant, loads of several only what is in a register, or their own size.
        """
        return T.int64(size) if count == 1 and size < POST_INDEX else T.bind(T.cast(unknown(size), "int64"))

    def held(self, vector: Any) -> Any:
        """Return a vector in a register; see the base class."""
        return held(vector)

    def iterations(self, count: int) -> Any:
        """Return a number of iterations that LLVM doesn't know; see the base class."""
        return unknown(count)

    def wide_products(self, left: Any, right: Any) -> list[Any]:
        """Return the products of bytes, by `smull` and `smull2`; see the base class.

        As intrinsics, so that LLVM doesn't take the upper halves out of a loop: then it would find no `smull2`.
        """
        halves = [(part(left, first, 8), part(right, first, 8)) for first in (0, 8)]
        return [T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", *half) for half in halves]

    def multiply_words(self, acc: Sequence[Any], activations: Any, step: int, weights: Any) -> list[Any]:
        """Return both accumulators plus the products, by `smlal` and `smlal2` by lane; see the base class."""
        value = T.Shuffle([activations], [step] * self.lanes)
        halves = [part(weights, first, self.lanes) for first in (0, self.lanes)]
        products = [T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.smull.v4i32", w, value) for w in halves]
        return [modular_add(a, product) for a, product in zip(acc, products, strict=True)]

    def multiply_add(self, acc: Any, activation: Any, weights: Any) -> Any:
        """Return `acc + activation * weights`, rounded once; see the base class.

        Of a product and a sum, which LLVM would contract, it would forget where in a loop they stood.
        """
        return fused_multiply_add(T.broadcast(activation, self.lanes), weights, acc)

    def clipped(self, value: Any, low: float | None, high: float | None) -> Any:
        """Return limited values, by `fmax` and `fmin`, which let NaN pass; see the base class."""
        lanes = lanes_of(value)
        suffix = "f32" if lanes == 1 else f"v{lanes}f32"
        for name, limit in (("maximum", low), ("minimum", high)):
            if limit is not None:
                bound = splat(T.float32(limit), lanes)
                value = T.call_llvm_pure_intrin(vector_type("float32", lanes), f"llvm.{name}.{suffix}", value, bound)
        return value

    def rounded(self, value: Any) -> Any:
        """Return the nearest int32, by `fcvtns`; see the base class."""
        lanes = lanes_of(value)
        if lanes == 1:
            return T.call_llvm_pure_intrin("int32", "llvm.aarch64.neon.fcvtns.i32.f32", value)
        if lanes % self.lanes:
            return super().rounded(value)
        name = "llvm.aarch64.neon.fcvtns.v4i32.v4f32"
        return joined([T.call_llvm_pure_intrin("int32x4", name, v) for v in self._vectors(value)])

    def saturate(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return `uint8(clamp(values + zero_point, low, high))`, narrowed twice with saturation; see the base class.

        Saturating to 16 bits on the way changes nothing, as the result lies in 0..255 in any case.
        """
        if lanes_of(values[0]) % self.lanes:
            return super().saturate(values, zero_point, low, high)
        narrow = [_narrowed("sqxtn.v4i16", "int16x4", v) for value in values for v in self._vectors(value)]
        return self._to_bytes(narrow, zero_point, low, high)

    def rounding_offset(self, zero_point: int, dtype: str) -> float | None:
        """Return what the absolute difference is taken from; see the base class.

        Where what is added is even, adding it with `ROUNDING_OFFSET` rounds, ties to even, and leaves an integer in
        the lower 16 bits. Of a negative number it is a difference, as LLVM would contract a product and a sum.
        """
        offset = zero_point + np.iinfo(dtype).min
        return -ROUNDING_OFFSET - offset if offset and offset % 2 == 0 else None

    def quantized(
        self, values: Sequence[Any], zero_point: int, low: int, high: int, dtype: str, offset: Any = None
    ) -> Any:
        """Return quantized values; see the base class."""
        if lanes_of(values[0]) % self.lanes:
            return super().quantized(values, zero_point, low, high, dtype)
        vectors = [v for value in values for v in self._vectors(value)]
        smallest = np.iinfo(dtype).min
        added, subtrahend = zero_point + smallest, self.rounding_offset(zero_point, dtype)
        if subtrahend is not None:
            vector = T.broadcast(T.float32(subtrahend), self.lanes) if offset is None else offset
            name, added = "llvm.aarch64.neon.fabd.v4f32", 0
            rounded = [T.call_llvm_pure_intrin("float32x4", name, v, vector) for v in vectors]
        else:
            rounded = [self.rounded(v) for v in vectors]
        # LLVM makes one instruction of two vectors' lower halves: `uzp1`.
        narrow = [T.Shuffle([T.reinterpret("int16x8", v)], [0, 2, 4, 6]) for v in rounded]
        return self._to_bytes(narrow, added, low + smallest, high + smallest, dtype)

    def saturate_interleaved(self, values: Sequence[Any], zero_point: int, low: int, high: int) -> Any:
        """Return four narrowed vectors, which interleaving 128 bits left in order; see the base class."""
        return self.saturate(values, zero_point, low, high)

    def weighted_sum(self, left: Any, right: Any, operator: QAdd) -> Any:
        """Return `qnn.add(left, right)`: products of 16 bits, whose sums are rounded, shifted and narrowed at once.

        See the base class.
        """
        lanes, multipliers = lanes_of(left), (operator.a_multiplier, operator.b_multiplier)
        fits = max(abs(m) for m in multipliers) < 1 << 15 and operator.shift <= MOST_NARROWING_SHIFT
        if lanes % self.lanes or not fits:
            return super().weighted_sum(left, right, operator)

        def products(values: Any, zero_point: int, multiplier: int) -> list[Any]:
            factor = T.broadcast(T.int16(multiplier), self.lanes)
            words = [v for half in _widened(values) for v in self._vectors(half - T.broadcast(T.int16(zero_point), 8))]
            return [
                T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.smull.v4i32", v, factor)
                for v in words[: lanes // self.lanes]
            ]

        terms = (
            products(left, operator.a_zero_point, operator.a_multiplier),
            products(right, operator.b_zero_point, operator.b_multiplier),
        )
        shift = T.int32(operator.shift)
        narrow = [_narrowed("sqrshrn.v4i16", "int16x4", a + b, shift) for a, b in zip(*terms, strict=True)]
        return self._to_bytes(narrow, operator.output_zero_point, operator.output_min, operator.output_max)

    def _vectors(self, value: Any) -> list[Any]:
        """Cut a vector into those of `lanes`."""
        return [part(value, first, self.lanes) for first in range(0, lanes_of(value), self.lanes)]

    def _to_bytes(self, values: Sequence[Any], offset: int, low: int, high: int, dtype: str = "uint8") -> Any:
        """Return `dtype(clamp(values + offset, low, high))` of int16 vectors of `lanes` as one vector."""
        lanes, limits = len(values) * self.lanes, np.iinfo(dtype)
        pairs = [joined(values[i : i + 2]) if i + 1 < len(values) else repeated(values[i], 8) for i in _even(values)]
        if offset:
            added = T.broadcast(T.int16(offset), 8)
            pairs = [T.call_llvm_pure_intrin("int16x8", "llvm.sadd.sat.v8i16", pair, added) for pair in pairs]
        narrow = "sqxtun" if dtype == "uint8" else "sqxtn"
        octets = [_narrowed(f"{narrow}.v8i8", f"{dtype}x8", pair) for pair in pairs]
        result = part(joined(octets), 0, lanes)
        if high < limits.max:
            result = T.min(result, T.broadcast(T.IntImm(dtype, high), lanes))
        return T.max(result, T.broadcast(T.IntImm(dtype, low), lanes)) if low > limits.min else result

    def multiply_block(self, acc: Any, activations: Sequence[Any], step: int, weights: Any) -> Any:
        """Return `acc` plus 16 products, four in each lane; see the base class.

        Two products of bytes fit int16, as neither factor's magnitude is above 128, and that of weights is below it:
        2 * 128 * 127 < 2**15. `smull`, `smlal2` and `sadalp`.
        """
        pairs = [
            T.call_llvm_pure_intrin(
                "int16x8", "llvm.aarch64.neon.smull.v8i16", part(activations[0], half, 8), part(weights, half, 8)
            )
            for half in (0, 8)
        ]
        return acc + T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", pairs[0] + pairs[1])

    def sum_blocks(self, sums: Sequence[Any]) -> list[Any]:
        """Return the sums of four lanes of each of four vectors; see the base class."""
        while len(sums) > 1:
            sums = [
                T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.addp.v4i32", *sums[i : i + 2])
                for i in range(0, len(sums), 2)
            ]
        return list(sums)

    def arrange_table(self, table: Array) -> Array:
        """Return a table as it is; see the base class."""
        return table

    def lookup(self, indices: Any, table: Sequence[Any]) -> Any:
        """Return the table's entries; see the base class.

        Four instructions: each looks in 64 entries, and `tbx` leaves bytes of other indices as they are.
        """
        octets, lanes = 4 * self.lanes, lanes_of(indices)
        every = repeated(indices, octets)
        result: Any = None
        for quarter in range(4):
            index = every - T.broadcast(T.uint8(64 * quarter), octets)
            operands = [*table[4 * quarter : 4 * quarter + 4], index]
            name, operands = ("tbl4", operands) if result is None else ("tbx4", [result, *operands])
            result = T.call_llvm_pure_intrin("uint8x16", f"llvm.aarch64.neon.{name}.v16i8", *operands)
        return part(result, 0, lanes)


def _narrowed(instruction: str, dtype: str, *operands: Any) -> Any:
    return T.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{instruction}", *operands)


def _widened(values: Any) -> list[Any]:
    """Return uint8 values as int16, eight in a vector; what is in lanes behind the last value doesn't matter.

    Sixteen are interleaved with zeros, by `zip1` and `zip2`: LLVM's way to the upper eight takes three instructions.
    """
    lanes = lanes_of(values)
    if lanes <= 8:
        return [T.reinterpret("int16x8", T.cast(repeated(values, 8), "uint16x8"))]
    zeros = T.broadcast(T.uint8(0), 16)
    return [
        T.reinterpret("int16x8", T.Shuffle([vector, zeros], [i for v in range(first, first + 8) for i in (v, 16)]))
        for start in range(0, lanes, 16)
        for vector in [repeated(part(values, start, min(16, lanes - start)), 16)]
        for first in (0, 8)
        if start + first < lanes
    ]


def _even(values: Sequence[Any]) -> range:
    return range(0, len(values), 2)


NEON = NeonInstructionSet.extending(
    PORTABLE,
    "neon",
    adding=[
        Capability.BLOCK_PRODUCTS,
        Capability.FUSED_MULTIPLY_ADD,
        Capability.TABLE_LOOKUP,
        Capability.WIDE_PRODUCTS,
        Capability.WORD_PRODUCTS,
    ],
    registers=32,
    dot_instructions=4,
    activation_offset=128,
    load_bytes=16,
    block_pixels=1,
    block_channels=1,
    block_depth=16,
    saturate_vectors=4,
    overwrites_addends=True,
    table_vectors=16,
)
