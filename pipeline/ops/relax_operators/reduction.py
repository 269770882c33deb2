"""Relax's operators that compute one value from several: reductions, pooling and sums of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ops.relax_operators.base import RelaxOperator, relax_names


class Reduction(RelaxOperator):
    """The largest or least value, the mean or the sum along some axes."""

    FUNCTIONS: ClassVar[Mapping[str, Callable[..., Array]]] = {
        "max": np.max,
        "mean": np.mean,
        "min": np.min,
        "sum": np.sum,
    }

    names = relax_names(" ".join(FUNCTIONS))

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound; for sums, 0 if x has no negative values."""
        return bounds[0] if self.name != "sum" else 0.0 if bounds[0] >= 0 else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the reduced values."""
        axis, keepdims = self.attribute("axis"), bool(self.attribute("keepdims"))
        axes = None if axis is None else tuple(int(a) for a in axis)
        return np.asarray(self.FUNCTIONS[self.name](arguments[0], axis=axes, keepdims=keepdims))


class Spread(RelaxOperator):
    """The product or the variance along some axes, of which passes assume nothing."""

    FUNCTIONS: ClassVar[Mapping[str, Callable[..., Array]]] = {"prod": np.prod, "variance": np.var}

    names = relax_names(" ".join(FUNCTIONS))

    def evaluate(self, *arguments: Array) -> Array:
        """Return the reduced values."""
        axis, keepdims = self.attribute("axis"), bool(self.attribute("keepdims"))
        axes = None if axis is None else tuple(int(a) for a in axis)
        result = self.FUNCTIONS[self.name](arguments[0], axis=axes, keepdims=keepdims)
        return np.asarray(result, self.output.dtype)


class PositionOfExtreme(RelaxOperator):
    """The index of the largest or least value along an axis, the first of equal ones."""

    names = relax_names("argmax argmin")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the indices."""
        find, axis = (np.argmax if self.name == "argmax" else np.argmin), self.attribute("axis")
        found = find(arguments[0], None if axis is None else int(axis), keepdims=bool(self.attribute("keepdims")))
        return np.asarray(found, self.output.dtype)


class MeanPool(RelaxOperator):
    """Means over windows of an image."""

    names = relax_names("nn.avg_pool2d")

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, or 0 if that is less: padded pixels may count."""
        return min(bounds[0], 0.0)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means."""
        (x,) = arguments
        (window_h, window_w), (stride_h, stride_w) = (
            tuple(int(v) for v in self.attribute(name)) for name in ("pool_size", "strides")
        )
        top, left, bottom, right = (int(v) for v in self.attribute("padding"))
        height, width = x.shape[1:3]
        y = np.empty(self.output.shape, "float32")
        for row, column in np.ndindex(*y.shape[1:3]):
            y0, x0 = row * stride_h - top, column * stride_w - left
            y1, x1 = y0 + window_h, x0 + window_w
            seen = x[:, max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
            padded = (min(y1, height + bottom) - y0) * (min(x1, width + right) - x0)
            counted = padded if bool(self.attribute("count_include_pad")) else seen.shape[1] * seen.shape[2]
            y[:, row, column] = seen.sum(axis=(1, 2)) / counted
        return y


class Softmax(RelaxOperator):
    """Exponentials beside their sum along an axis, or the logarithms of that."""

    names = relax_names("nn.softmax nn.log_softmax")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        (x,), axis = arguments, int(self.attribute("axis"))
        shifted = x - x.max(axis=axis, keepdims=True)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        return np.asarray(np.exp(shifted) / total if self.name == "nn.softmax" else shifted - np.log(total))


class MatMul(RelaxOperator):
    """Matrix products."""

    names = relax_names("matmul")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the products."""
        return np.asarray(np.matmul(*arguments))


class CumulativeSum(RelaxOperator):
    """Cumulative sums along an axis."""

    names = relax_names("cumsum")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sums."""
        (x,) = arguments
        total = np.cumsum(x, int(self.attribute("axis")), dtype=self.output.dtype)
        return np.asarray(total - x if self.attribute("exclusive") else total)
