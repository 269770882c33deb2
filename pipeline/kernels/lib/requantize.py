"""From int32 accumulators back to 8 bits, or to float32: exact, and the same on every CPU.

There is one float multiply, and what follows it is a rounding, never an addition: LLVM may contract a multiply and an
add into one instruction with a different result. Rounding is to nearest, ties to even, everywhere.

CPUs with a fused multiply-add save the conversion to float32. Between 2**23 and 2**24, the bits of a float32 count in
ones, so an accumulator that begins with the bits of `FLOAT_OFFSET` is, taken for a float32, `FLOAT_OFFSET + sum`. Then

    (FLOAT_OFFSET + sum) * multiplier - FLOAT_OFFSET * multiplier

is `sum * multiplier`, rounded once, as the product alone would be: the same bits. It takes sums that are small enough,
and multipliers whose product with the offset is exact, which `sums_are_floats` tells. The difference of the accumulator
and `FLOAT_OFFSET`, multiplied, is the same, in two instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script import tirx as T

from pipeline.kernels.lib.vectors import lanes_of, vector_type

Array = npt.NDArray[Any]

FLOAT_OFFSET = 1.5 * 2.0**23
"""Initial value of accumulators whose bits are used as a float32."""

FLOAT_OFFSET_BITS = 0x4B400000
"""The bits of `FLOAT_OFFSET` as an integer."""

MOST_FLOAT_SUM = 2**22
"""Sums below it, of either sign, keep an accumulator that begins with `FLOAT_OFFSET` between 2**23 and 2**24."""


def sum_bounds(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Return the least and the largest sum that uint8 inputs can give: [O] int64 each.

    Args:
        weight: [O, ...] int8.
        bias: [O] int32, with the input's zero point folded in.
    """
    rows = weight.reshape(weight.shape[0], -1).astype("int64")
    return bias + 255 * np.minimum(rows, 0).sum(axis=1), bias + 255 * np.maximum(rows, 0).sum(axis=1)


def sums_are_floats(weight: Array, bias: Array, multiplier: Array) -> bool:
    """Return whether every sum that uint8 inputs can give may be accumulated as a float32's bits.

    Args:
        weight: [O, ...] int8.
        bias: [O] int32, with the input's zero point folded in.
        multiplier: [O] float32.
    """
    lowest, highest = sum_bounds(weight, bias)
    offsets = -FLOAT_OFFSET * multiplier.astype("float64")
    exact = offsets.astype("float32") == offsets
    return bool(((lowest > -MOST_FLOAT_SUM) & (highest < MOST_FLOAT_SUM) & exact).all())


def results_are_short(weight: Array, bias: Array, multiplier: Array) -> bool:
    """Return whether every sum that uint8 inputs can give, scaled and rounded, fits int16 even with a zero point added.

    Args:
        weight: [O, ...] int8.
        bias: [O] int32, with the input's zero point folded in.
        multiplier: [O] float32.
    """
    largest = np.maximum(*(np.abs(bound) for bound in sum_bounds(weight, bias)))
    # A zero point is below 256. Rounding to float32 adds less than the one that is left.
    return bool((largest * np.abs(multiplier.astype("float64")) < np.iinfo("int16").max - 257).all())


def rounded(value: Any) -> Any:
    """Return the int32 nearest to a float32 expression, ties to even; it must fit.

    `llvm.lrint` becomes one conversion (`cvtps2dq` on x86); `T.nearbyint` and a cast would be two, or a call of libm.
    """
    lanes = lanes_of(value)
    suffix = "i32.f32" if lanes == 1 else f"v{lanes}i32.v{lanes}f32"
    return T.call_llvm_pure_intrin(vector_type("int32", lanes), f"llvm.lrint.{suffix}", value)
