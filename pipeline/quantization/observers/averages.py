"""Means of samples' ranges: one odd sample doesn't widen the range as it does the largest magnitude of all.

The samples of a batch are those along a tensor's first axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any

import msgspec
import numpy as np

from pipeline.quantization.observers.abs_max import AbsMax
from pipeline.quantization.observers.observer import NoOptions
from pipeline.quantization.observers.readers import AS_IT_IS, Array, Reader
from pipeline.quantization.spec import Choice, QuantizationSpec, clip, spread
from pipeline.schema import Record


class AverageMaximum(AbsMax):
    """Chooses the mean of the samples' largest magnitudes as the threshold (PaddleSlim: avg).

    Attributes:
        total: sum of the samples' largest magnitudes. It is exact, so that their order doesn't matter.
        samples: how many there were.
    """

    algorithm = "avg"

    def __init__(self, options: NoOptions) -> None:
        """See `Observer`."""
        super().__init__(options)
        self.total = Fraction(0)
        self.samples = 0

    def update(self, values: Array) -> None:
        """See `Observer`."""
        super().update(values)
        for low, high in _ranges(values):
            self.total += Fraction(max(-low, high))
            self.samples += 1

    def merge(self, other: Any) -> None:
        """See `Observer`."""
        super().merge(other)
        self.total += other.total
        self.samples += other.samples

    def state(self) -> dict[str, Array]:
        """See `Observer`; the sum is text, as no number of NumPy's holds it."""
        exact = np.array([str(self.total.numerator), str(self.total.denominator)])
        return super().state() | {"total": exact, "samples": np.array(self.samples)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Observer`."""
        super().restore(state)
        self.total, self.samples = Fraction(*map(int, state["total"].tolist())), int(state["samples"])

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`; what is read doesn't matter."""
        del readers
        threshold = float(self.total / self.samples) if self.samples else 0.0
        return clip(self.minimum, self.maximum, threshold, spec)


class MovingAverageOptions(Record, frozen=True, kw_only=True):
    """Options of `MovingAverage`.

    Attributes:
        momentum: share of the average that each sample leaves of what was before it.
    """

    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9


class MovingAverage(AbsMax):
    """Chooses the moving average of the samples' ranges, as is usual in training (PaddleSlim: moving_average_abs_max).

    The latest samples count most: of all algorithms, this one alone depends on the samples' order, and merging means
    that what the other one has seen came later. The average of a few samples is that of so many, as in Adam, and not
    drawn towards zero.

    Source: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 3.1.

    Attributes:
        weight: what all samples' shares add up to.
        low: sum of the samples' smallest values, each times its share.
        high: the same of the largest ones.
    """

    algorithm = "moving_average"
    options = MovingAverageOptions
    ordered = True

    def __init__(self, options: MovingAverageOptions) -> None:
        """See `Observer`."""
        super().__init__(NoOptions())
        self.momentum = options.momentum
        self.weight = self.low = self.high = 0.0
        self.samples = 0

    def update(self, values: Array) -> None:
        """See `Observer`."""
        super().update(values)
        for low, high in _ranges(values):
            self._add(1, 1 - self.momentum, low * (1 - self.momentum), high * (1 - self.momentum))

    def merge(self, other: Any) -> None:
        """See `Observer`."""
        super().merge(other)
        self._add(other.samples, other.weight, other.low, other.high)

    def state(self) -> dict[str, Array]:
        """See `Observer`."""
        sums = np.array([self.weight, self.low, self.high])
        return super().state() | {"sums": sums, "samples": np.array(self.samples)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Observer`."""
        super().restore(state)
        self.weight, self.low, self.high = state["sums"].tolist()
        self.samples = int(state["samples"])

    def _add(self, samples: int, weight: float, low: float, high: float) -> None:
        left = self.momentum**samples
        self.samples += samples
        self.weight = self.weight * left + weight
        self.low = self.low * left + low
        self.high = self.high * left + high

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`; what is read doesn't matter."""
        del readers
        weight = self.weight or 1.0
        return spread(max(self.low / weight, self.minimum), min(self.high / weight, self.maximum), spec)


def _ranges(values: Array) -> list[tuple[float, float]]:
    """Return each sample's smallest and largest value; nothing if there are none."""
    if values.size == 0:
        return []
    samples = values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)
    lows, highs = np.min(samples, axis=1), np.max(samples, axis=1)
    return [(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]
