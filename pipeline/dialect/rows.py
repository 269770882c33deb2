"""Operators on rows: everything along the last axis belongs together, all other axes only count rows."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.dialect.base import Attributes
from pipeline.dialect.types import TensorType


@dataclass(frozen=True)
class Softmax(Attributes):
    """`nn.softmax`: `y = exp(x - max(x)) / sum(exp(x - max(x)))` of each row, float32. x: [...,K]; result: the same."""

    name = "nn.softmax"
    arguments = ("x",)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class LayerNorm(Attributes):
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
