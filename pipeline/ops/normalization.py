"""Operators on rows: what lies along the last axis is normalized together."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.ir.operator import Operator, Requantized
from pipeline.ir.types import TensorType


@dataclass(frozen=True)
class Softmax(Operator):
    """`nn.softmax`: `y = exp(x - max(x)) / sum(exp(x - max(x)))` of each row, float32. x: [...,K]; result: the same."""

    name = "nn.softmax"
    arguments = ("x",)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class LayerNorm(Operator):
    """`nn.layer_norm`: `y = (x - mean(x)) / sqrt(variance(x) + epsilon) * gamma + beta` of each row, float32.

    The variance is that of the population, `mean((x - mean(x))**2)`.

    x: [...,K]; gamma, beta: [K]; result: [...,K].
    """

    name = "nn.layer_norm"
    arguments = ("x", "gamma", "beta")

    epsilon: float = 1e-5

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        x, gamma, beta = inputs
        if gamma.shape != x.shape[-1:] or beta.shape != x.shape[-1:]:
            raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} don't fit rows of {x.shape}")
        return x


@dataclass(frozen=True)
class QSoftmax(Requantized):
    """`qnn.softmax`: softmax of each row in integers, from a table of exponentials.

    `e = table[max(x) - x]`, int32; `q = int32(rint(float32(e) * (float32(multiplier) / float32(sum(e)))))`, then as
    `Requantized`. `realize` chooses the table so that no sum of a row exceeds int32.

    x: [...,K] uint8; table: [256] int32, at least 0, `table[0]` above 0; result: [...,K] uint8.
    """

    name = "qnn.softmax"
    arguments = ("x", "table")

    multiplier: float = 255.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]
