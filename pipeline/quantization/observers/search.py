"""Finds the range whose quantization has the smallest loss, among all that a histogram can tell apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.readers import Array
from pipeline.quantization.spec import QuantizationSpec, scales_over

Loss = Callable[[Array, Array], Array]
"""Returns what each of [C] scales with its zero point costs: [C] float64."""

THRESHOLDS = 256
"""Thresholds that are compared first where only one has to be found."""

ENDS = 24
"""Ends of a range that are compared first on each side of zero, where both have to be found."""

ROUNDS = 2
"""How often the search is repeated around the best range, four times as finely each time."""

_CHUNK = 128
"""Candidates that are evaluated together; bounds the search's memory to a few megabytes."""


def best_range(histogram: Histogram, spec: QuantizationSpec, loss: Loss) -> tuple[float, float]:
    """Return (low, high), the range with the smallest loss of all between nothing and what was seen.

    Ranges are compared on a grid first, then around the best of them. Steps much finer than the histogram's bins aren't
    tried, as it can't tell what they would cost. Of equal ranges the widest counts.

    Args:
        histogram: the tensor's values.
        spec: how it is quantized, with `symmetric` decided.
        loss: what is to be small.
    """
    lowest, highest = (min(histogram.minimum, 0.0) if spec.signed else 0.0), max(histogram.maximum, 0.0)
    if not lowest < highest:
        return 0.0, 0.0
    if spec.signed and spec.symmetric:
        highest = max(-lowest, highest)
        lowest = -highest
    one_threshold = lowest == 0 or highest == 0 or bool(spec.signed and spec.symmetric)
    count = THRESHOLDS if one_threshold else ENDS
    finest = min(spec.steps * histogram.width / 2, highest - lowest)

    def best(lows: Array, highs: Array) -> tuple[float, float]:
        fits = highs - lows >= finest * (1 - 1e-9)
        lows, highs = lows[fits], highs[fits]
        parts = range(0, len(lows), _CHUNK)
        losses = [loss(*scales_over(lows[i : i + _CHUNK], highs[i : i + _CHUNK], spec)) for i in parts]
        found = int(np.argmin(np.concatenate(losses)))
        return float(lows[found]), float(highs[found])

    def around(low: Array, high: Array) -> tuple[Array, Array]:
        """Return all pairs of shares of the range seen, largest first; only equal ones where one has to be found."""
        low, high = (np.unique(np.clip(shares, 0, 1))[::-1] for shares in (low, high))
        if not one_threshold:
            low, high = (grid.reshape(-1) for grid in np.meshgrid(low, high, indexing="ij"))
        elif lowest == 0:
            low = np.zeros(len(high))
        elif highest == 0:
            high = np.zeros(len(low))
        return low * lowest, high * highest

    shares = np.linspace(0, 1, count + 1)
    low, high = best(*around(shares, shares))
    for finer in range(1, ROUNDS + 1):
        nearby = np.linspace(-1, 1, 9) / count / 4 ** (finer - 1)
        low, high = best(*around(_share(low, lowest) + nearby, _share(high, highest) + nearby))
    return low, high


def _share(end: float, furthest: float) -> float:
    return end / furthest if furthest else 0.0
