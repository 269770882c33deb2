"""How far one tensor is from another, added up over batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Distance:
    """Compares tensors with what they should be, batch by batch; it keeps sums only, in float64."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self._expected = self._actual = self._product = 0.0

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
        self._expected += float(left @ left)
        self._actual += float(right @ right)
        self._product += float(left @ right)

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
        if self._expected == 0 or self._actual == 0:
            return float(self._expected == self._actual)
        # The product of both would overflow where each of them doesn't.
        return self._product / math.sqrt(self._expected) / math.sqrt(self._actual)


def _noise(expected: Array, actual: Array) -> float:
    """Return the sum of squared differences: infinity where one value is finite and the other isn't."""
    differs = (expected != actual) & ~(np.isnan(expected) & np.isnan(actual))
    errors = expected[differs] - actual[differs]
    return float((np.where(np.isnan(errors), np.inf, errors) ** 2).sum())
