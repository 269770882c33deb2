"""A histogram of magnitudes that grows with its data: one pass, constant memory, mergeable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 4096
"""Number of bins by default; at least half of them are in use, as the limit is the next power of two."""


class Histogram:
    """Counts of |x| in equal bins over [0, limit), and the range of x.

    The limit is a power of two. When a larger value arrives, it doubles and neighbouring bins merge in pairs, as often
    as needed; so the counts don't depend on the order of the data or on how it is split among workers. Exact zeros are
    counted apart.

    Attributes:
        counts: [bins] int64; zeros aren't in it.
        zeros: how many values were exactly 0.
        limit: upper end of the last bin; 0.0 before the first value other than zero.
        minimum: smallest value seen; infinity before the first.
        maximum: largest value seen; minus infinity before the first.

    Args:
        bins: how many, a power of two.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts = np.zeros(bins, "int64")
        self.zeros = 0
        self.limit = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.limit / self.counts.size

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add all elements of a float array; they must be finite."""
        if values.size == 0:
            return
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        largest = max(abs(self.minimum), abs(self.maximum))
        if largest == 0.0:
            self.zeros += values.size
            return
        self._grow(_limit_above(largest))
        magnitudes = np.abs(values.reshape(-1))
        # The scale is a power of two, so the product is exact and a value's bin depends on nothing else.
        bins = (magnitudes * np.float32(self.counts.size / self.limit)).astype("int32")
        counts = np.bincount(bins, minlength=self.counts.size)
        zeros = int(magnitudes.size - np.count_nonzero(magnitudes))
        counts[0] -= zeros
        self.zeros += zeros
        self.counts += counts

    def merge(self, other: Histogram) -> None:
        """Add all that another histogram has seen."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.zeros += other.zeros
        if other.limit > 0:
            self._grow(other.limit)
            self.counts += _shrink(other.counts, round(math.log2(self.limit / other.limit)))

    def _grow(self, limit: float) -> None:
        if self.limit == 0.0:
            self.limit = limit
        elif limit > self.limit:
            self.counts = _shrink(self.counts, round(math.log2(limit / self.limit)))
            self.limit = limit


def _limit_above(value: float) -> float:
    """Return the smallest power of two above `value` that float32 can scale by."""
    _, exponent = math.frexp(value)
    return math.ldexp(1.0, max(exponent, -100))


def _shrink(counts: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """Return the counts with neighbours merged in pairs, `times` times."""
    bins = counts.size
    factor = min(2**times, bins)
    shrunk = np.zeros(bins, "int64")
    shrunk[: bins // factor] = counts.reshape(-1, factor).sum(axis=1)
    return shrunk
