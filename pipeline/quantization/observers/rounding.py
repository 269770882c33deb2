"""The error that quantizing a tensor makes where it is read, from its histogram, for many scales at once.

An error is the sum, over all values seen, of a distance between what a reader makes of the value and of its quantized
one. As all values within half a step of a quantized value become that one, running sums over the histogram's bins give
a scale's squared error in as many steps as there are quantized values, whatever the number of bins; within a bin,
values count as evenly spread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.readers import Array, Reader, read


class SquaredErrors:
    """Squared errors at a tensor's readers.

    Several readers' errors are added, each in relation to the power of what it makes of the values (less what it makes
    of zero).

    Args:
        histogram: all values of the tensor.
        readers: of the tensor.
        steps: from the smallest to the largest quantized value.
    """

    def __init__(self, histogram: Histogram, readers: Sequence[Reader], steps: int) -> None:
        # The width is 0 where nothing but zeros was seen, which all cost nothing.
        self.width, self.bins, self.steps = histogram.width or 1.0, histogram.bins, steps
        centres = (np.arange(2 * self.bins) - self.bins + 0.5) * self.width
        counts = histogram.signed_counts.astype("float64")
        self.mass = _running(counts)
        self.readers = []
        for reader in readers:
            at_zero = read(reader, np.zeros(1))
            values = read(reader, centres) - at_zero
            power = float((counts * values**2).sum())
            self.readers.append((reader, at_zero, _running(counts * values), power))

    def __call__(self, scales: Array, zero_points: Array) -> Array:
        """Return the error for each of [C] scales with its zero point, as shares of the readers' power: [C] float64."""
        levels = (np.arange(self.steps + 1) - zero_points[:, None]) * scales[:, None]
        places = (levels[:, 1:] + levels[:, :-1]) / (2 * self.width) + self.bins
        places = np.clip(places, 0, 2 * self.bins)
        first = np.minimum(places.astype("int64"), 2 * self.bins - 1)
        within = places - first

        def in_steps(running: Array) -> Array:
            at_edges = running[first] + within * (running[first + 1] - running[first])
            return np.diff(at_edges, axis=1, prepend=0.0, append=running[-1])

        mass = in_steps(self.mass)
        total = np.zeros(len(scales))
        for reader, at_zero, moments, power in self.readers:
            values = read(reader, levels) - at_zero
            error = power + (values**2 * mass - 2 * values * in_steps(moments)).sum(axis=1)
            total += error / power if power > 0 else error
        return total


class AbsoluteErrors:
    """Absolute errors at a tensor's readers; see `SquaredErrors`.

    Args:
        histogram: all values of the tensor.
        readers: of the tensor.
        steps: from the smallest to the largest quantized value.
    """

    def __init__(self, histogram: Histogram, readers: Sequence[Reader], steps: int) -> None:
        used = np.flatnonzero(histogram.signed_counts)
        self.centres = (used - histogram.bins + 0.5) * histogram.width
        self.counts, self.steps = histogram.signed_counts[used].astype("float64"), steps
        self.readers = []
        for reader in readers:
            values = read(reader, self.centres)
            size = float((self.counts * np.abs(values - read(reader, np.zeros(1)))).sum())
            self.readers.append((reader, values, size))

    def __call__(self, scales: Array, zero_points: Array) -> Array:
        """Return the error for each of [C] scales with its zero point, as shares of the readers' size: [C] float64."""
        quantized = np.rint(self.centres / scales[:, None]) + zero_points[:, None]
        quantized = np.clip(quantized, 0, self.steps).astype("int64")
        levels = (np.arange(self.steps + 1) - zero_points[:, None]) * scales[:, None]
        total = np.zeros(len(scales))
        for reader, values, size in self.readers:
            error = np.abs(values - np.take_along_axis(read(reader, levels), quantized, axis=1)) @ self.counts
            total += error / size if size > 0 else error
        return total


def _running(values: Array) -> Array:
    """Return the sums of all values before each, and of all: one more than there are values."""
    return np.concatenate([[0.0], np.cumsum(values)])
