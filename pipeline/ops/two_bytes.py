"""Products of values of 16 bits: their two bytes are multiplied, by kernels for bytes, and the sums are joined.

A quantized value of 16 bits is `x = 256 * h + l` with h and l in -128..127 (`ir.types.LARGEST_INT16`), so
`sum(x * w) = 256 * sum(h * w) + sum(l * w)`. Stored as uint8, both have the zero point 128. Each of the two sums fits
int32 wherever one of 8 bits does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.bases import Requantized

BYTE_ZERO_POINT = 128
"""The zero point of both bytes."""


@dataclass(frozen=True)
class SplitBytes(Operator):
    """`qnn.split_bytes`: the two bytes of values of 16 bits, one tensor behind the other.

    `y[:N] = h + 128` and `y[N:] = l + 128`, with `h = (x + 128) >> 8` and `l = x - 256 * h`.

    x: [N,...] int16, of magnitudes of at most `LARGEST_INT16`; result: [2*N,...] uint8.
    """

    name = "qnn.split_bytes"
    arguments = ("x",)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type."""
        first, *rest = inputs[0].shape
        return TensorType((2 * first, *rest), "uint8")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the bytes."""
        x = arguments[0].astype("int32")
        high = (x + 128) >> 8
        return (np.concatenate([high, x - 256 * high]) + BYTE_ZERO_POINT).astype("uint8")


@dataclass(frozen=True)
class JoinSums(Requantized):
    """`qnn.join_sums`: sums of products of `qnn.split_bytes`, put together, with bias, and requantized.

    `acc = (256 * x[:N] + x[N:]) + bias[o]`, where each sum is rounded to float32, and `256 * x` is exact. With
    `output_dtype` "uint8" or "int16": `q = int32(rint(acc * multiplier[o]))`, then as `Requantized`. With "float32":
    `y = acc * multiplier[o]`.

    x: [2*N,...,O] float32; bias: [O] float32; multiplier: [O] float32; result: [N,...,O] in `output_dtype`. `realize`
    guarantees that `acc * multiplier` fits int32.
    """

    name = "qnn.join_sums"
    arguments = ("x", "bias", "multiplier")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type."""
        first, *rest = inputs[0].shape
        if first % 2:
            raise ValueError(f"{first} sums on the first axis aren't pairs")
        return TensorType((first // 2, *rest), self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        x, bias, multiplier = arguments
        high, low = np.split(x, 2)
        values = ((np.float32(256) * high + low) + bias) * multiplier
        return values if self.output_dtype == "float32" else self.saturate(np.rint(values))
