"""Operators that normalize rows, the values along the last axis: softmax and layer normalization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import scaled
from pipeline.ops.bases import Requantized


@dataclass(frozen=True)
class Softmax(Operator):
    """`nn.softmax`: `y = exp(x - max(x)) / sum(exp(x - max(x)))` for each row, float32. x and result: [...,K]."""

    name = "nn.softmax"
    arguments = ("x",)
    rowwise = True
    image_by_image = True

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        return inputs[0]

    def lower_bound(self, *bounds: float) -> float:
        """Return 0, below all results."""
        del bounds
        return 0.0

    def overflow_reason(self, *inputs: TensorType) -> str | None:
        """Return why sums of exponentials could overflow int32, if rows are longer than `QSoftmax.MAX_ROW`."""
        length = inputs[0].shape[-1]
        too_long = f"its rows of {length} values are too long for exponentials in 32 bits"
        return too_long if length > QSoftmax.MAX_ROW else None

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, computed in float64."""
        (x,) = arguments
        exponentials = np.exp(x.astype("float64") - x.max(axis=-1, keepdims=True))
        return np.asarray((exponentials / exponentials.sum(axis=-1, keepdims=True)).astype("float32"))


@dataclass(frozen=True)
class LayerNorm(Operator):
    """`nn.layer_norm`: `y = (x - mean(x)) / sqrt(variance(x) + epsilon) * gamma + beta` for each row, float32.

    The variance is `mean((x - mean(x))**2)`.

    x: [...,K]; gamma, beta: [K]; result: [...,K].
    """

    name = "nn.layer_norm"
    arguments = ("x", "gamma", "beta")
    rowwise = True
    image_by_image = True

    epsilon: float = 1e-5

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        x, gamma, beta = inputs
        if gamma.shape != x.shape[-1:] or beta.shape != x.shape[-1:]:
            raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} don't fit rows of {x.shape}")
        return x

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, computed in float64."""
        x, gamma, beta = arguments
        centred = x.astype("float64") - x.mean(axis=-1, keepdims=True, dtype="float64")
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.epsilon)
        return np.asarray((centred / deviation * gamma + beta).astype("float32"))


@dataclass(frozen=True)
class QSoftmax(Requantized):
    """`qnn.softmax`: softmax of each row in integers, from a table of exponentials.

    `e = table[max(x) - x]`, int32; `q = int32(rint(float32(e) * (float32(multiplier) / float32(sum(e)))))`, then as
    `Requantized`. `realize` chooses the table so that no row's sum overflows int32.

    x: [...,K] uint8; table: [256] int32, at least 0, `table[0]` above 0; result: [...,K] uint8. K is at most `MAX_ROW`;
    with longer rows, the table's entries would have less than 14 bits.
    """

    name = "qnn.softmax"
    arguments = ("x", "table")
    rowwise = True
    image_by_image = True

    MAX_ROW: ClassVar[int] = 2**16

    multiplier: float = 255.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        return inputs[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        x, table = arguments
        exponentials = table[x.max(axis=-1, keepdims=True).astype("int32") - x]
        total = exponentials.sum(axis=-1, keepdims=True, dtype="int32")
        return self.saturate(np.rint(scaled(exponentials, np.float32(self.multiplier) / total.astype("float32"))))
