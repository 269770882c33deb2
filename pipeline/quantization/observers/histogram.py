"""A histogram that grows with its data: one pass, constant memory, mergeable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.compiler.calibration_loops import Counted, extent, histogram

Array = npt.NDArray[Any]

BINS = 4096
"""Number of bins on each side of zero by default; at least half of one side is in use, as the limit is the next power
of two."""


class Histogram:
    """Counts of x in equal bins on both sides of zero, up to a limit, and the range of x.

    Bins hold the end that is nearer to zero, so that both sides are alike. The limit is a power of two. When a larger
    value arrives, it doubles and neighbouring bins merge in pairs, as often as needed; so the counts don't depend on
    the order of the data or on how it is split among workers. Exact zeros are counted apart.

    Class attributes:
        on_all_cores: see `Observer`.

    Attributes:
        signed_counts: [2 * bins] int64, those below zero first; zeros aren't in it.
        zeros: how many values were exactly 0.
        limit: upper end of the last bin; 0.0 before the first value other than zero.
        minimum: smallest value seen; infinity before the first.
        maximum: largest value seen; minus infinity before the first.

    Args:
        bins: how many on each side of zero, a power of two.
    """

    on_all_cores: ClassVar[bool] = True

    def __init__(self, bins: int = BINS) -> None:
        self.signed_counts: npt.NDArray[np.int64] = np.zeros(2 * bins, "int64")
        self.zeros = 0
        self.limit = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def bins(self) -> int:
        """Number of bins on each side of zero."""
        return self.signed_counts.size // 2

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Counts of |x| in equal bins over [0, limit): [bins]; zeros aren't in it."""
        return np.asarray(self.signed_counts[self.bins :] + self.signed_counts[: self.bins][::-1])

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.limit / self.bins

    def update(self, values: Array) -> None:
        """Add all elements of a float32 array.

        Raises:
            NotFiniteError: one is NaN or infinite.
        """
        if values.size == 0:
            return
        if self.limit == 0.0:
            self._extend(*extent(values))
        if self.limit == 0.0:
            self.zeros += values.size
            return
        # Mostly, values are within the limit: then they are looked at once.
        counted = self._count(values)
        if self._extend(counted.least, counted.largest):
            counted = self._count(values)
        self.zeros += counted.zeros
        self.signed_counts += counted.counts

    def _count(self, values: Array) -> Counted:
        # The scale is a power of two, so the product is exact and a value's bin depends on nothing else.
        return histogram(values, self.bins / self.limit, self.bins)

    def _extend(self, least: float, largest: float) -> bool:
        """Take in values' extent, and return whether the limit is another one for it."""
        self.minimum, self.maximum = min(self.minimum, least), max(self.maximum, largest)
        furthest, before = max(abs(self.minimum), abs(self.maximum)), self.limit
        if furthest > 0.0:
            self._grow(_limit_above(furthest))
        return self.limit != before

    def merge(self, other: Histogram) -> None:
        """Add all that another histogram has seen."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.zeros += other.zeros
        if other.limit > 0:
            self._grow(other.limit)
            self.signed_counts += _shrink(other.signed_counts, round(math.log2(self.limit / other.limit)))

    def state(self) -> dict[str, Array]:
        """Return all that it has seen: counts in as few bytes as they fit in, and limits."""
        counts = self.signed_counts.astype(np.min_scalar_type(int(self.signed_counts.max())))
        return {
            "signed_counts": counts,
            "zeros": np.array(self.zeros),
            "range": np.array([self.limit, self.minimum, self.maximum]),
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become what a histogram of as many bins was, whose state this is.

        Raises:
            ValueError: no histogram of as many bins has such a state.
        """
        counts, (limit, minimum, maximum) = state["signed_counts"], state["range"].tolist()
        if counts.shape != self.signed_counts.shape or counts.dtype.kind not in "iu":
            raise ValueError(f"counts are {counts.dtype} of the shape {counts.shape}")
        seen = max(-minimum, maximum, 0.0)
        if limit != 0 and (math.frexp(limit)[0] != 0.5 or not seen < limit):
            raise ValueError(f"the limit is {limit}, and values are from {minimum} to {maximum}")
        self.signed_counts, self.zeros = counts.astype("int64"), int(state["zeros"])
        self.limit, self.minimum, self.maximum = limit, minimum, maximum

    def _grow(self, limit: float) -> None:
        if self.limit == 0.0:
            self.limit = limit
        elif limit > self.limit:
            self.signed_counts = _shrink(self.signed_counts, round(math.log2(limit / self.limit)))
            self.limit = limit


def _limit_above(value: float) -> float:
    """Return the smallest power of two above `value` that float32 can scale by."""
    _, exponent = math.frexp(value)
    return math.ldexp(1.0, max(exponent, -100))


def _shrink(counts: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """Return the counts of both sides with neighbours merged in pairs, `times` times."""
    bins = counts.size // 2
    factor = min(2**times, bins)
    kept = bins // factor
    shrunk = np.zeros(2 * bins, "int64")
    shrunk[bins - kept : bins + kept] = counts.reshape(-1, factor).sum(axis=1)
    return shrunk
