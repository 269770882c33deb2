"""How far one tensor is from another, added up over batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass
class Distance:
    """Compares tensors with what they should be, batch by batch; it keeps sums only, in float64.

    Attributes:
        signal: sum of squares of what the tensors should be, as far as that is finite.
        noise: sum of squared differences; infinity if a value is finite in one only.
        expected: as `signal`, where both are finite.
        actual: the same of what the tensors are.
        product: sum of products of both.
    """

    signal: float = 0.0
    noise: float = 0.0
    expected: float = 0.0
    actual: float = 0.0
    product: float = 0.0

    def update(self, expected: Array, actual: Array) -> None:
        """Take in one batch.

        Args:
            expected: what the tensor should be, any shape.
            actual: what it is, of the same shape.
        """
        expected, actual = expected.astype("float64"), actual.astype("float64")
        self.signal += float((expected[np.isfinite(expected)] ** 2).sum())
        self.noise += _noise(expected, actual)
        finite = np.isfinite(expected) & np.isfinite(actual)
        left, right = expected[finite], actual[finite]
        # Not by BLAS, whose sums depend on the number of threads.
        self.expected += float((left * left).sum())
        self.actual += float((right * right).sum())
        self.product += float((left * right).sum())

    def merge(self, other: Distance) -> None:
        """Take in what another one has of the batches that are next."""
        self.signal += other.signal
        self.noise += other.noise
        self.expected += other.expected
        self.actual += other.actual
        self.product += other.product

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, decibels.

        Infinity if the tensors are equal; minus infinity if there is no signal, or a value is finite in one only.
        """
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or self.noise == math.inf:
            return -math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the tensors, as vectors of their finite values; 1 if both are zero."""
        if self.expected == 0 or self.actual == 0:
            return float(self.expected == self.actual)
        # The product of both would overflow where each of them doesn't.
        return self.product / math.sqrt(self.expected) / math.sqrt(self.actual)


def _noise(expected: Array, actual: Array) -> float:
    """Return the sum of squared differences: infinity where one value is finite and the other isn't."""
    differs = (expected != actual) & ~(np.isnan(expected) & np.isnan(actual))
    errors = expected[differs] - actual[differs]
    return float((np.where(np.isnan(errors), np.inf, errors) ** 2).sum())
