"""KL ranges: where clipping loses as much information as coarse steps do.

Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. For every candidate range the distribution, with all that
lies beyond added to the last bins, is compared with what is left of it after quantization to the available levels; the
candidate with the smallest Kullback-Leibler divergence wins. The paper's ranges are those of magnitudes up to a
threshold, as they are here for symmetric tensors and those without negative values. Of other tensors, both ends are
searched, by turns.

What follows decides which part of the distribution counts: where a tensor is only read by functions of single values (a
hard-swish, a sigmoid, a clip), all values beyond which these functions don't change any more count as one.

Known traps are avoided: thresholds aren't only searched in the upper half of the range; exact zeros, of which ReLU
makes many and which quantize without loss, don't count; and a candidate must keep nearly all of the values, as all
values in one clipped bin look like a perfect match where they come in lumps (a gate that is 1 nearly everywhere).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from pipeline.quantization.observers.histogram import BINS, Histogram
from pipeline.quantization.observers.observer import Observer
from pipeline.quantization.observers.readers import AS_IT_IS, Array, Reader, are_functions, read
from pipeline.quantization.spec import Choice, QuantizationSpec, spread
from pipeline.schema import Record

KEPT = 0.9999
"""Share of the values other than zero that a candidate may not clip, by default."""

CANDIDATES = 256
"""Ends of a range that are compared first, evenly spread; after them, all around the best one."""

ROUNDS = 2
"""How often each end of a range is searched, given the other one."""

FLAT = 1 / 1024
"""Share of a function's range by which it may change where it counts as saturated: a quarter of an 8-bit step."""


class KLOptions(Record, frozen=True, kw_only=True):
    """Options of `KL`.

    Attributes:
        bins: of the histogram, on each side of zero; a power of two.
        kept: share of the values other than zero that no range may clip.
    """

    bins: Annotated[int, msgspec.Meta(ge=512, le=65536)] = BINS
    kept: Annotated[float, msgspec.Meta(ge=0, le=1)] = KEPT

    def __post_init__(self) -> None:
        """Check that bins are a power of two, as neighbours merge in pairs."""
        if self.bins & (self.bins - 1):
            raise ValueError(f"bins is {self.bins}; it must be a power of two")


class KL(Histogram, Observer):
    """Chooses the range at which the least information is lost (PaddleSlim: KL)."""

    algorithm = "kl"
    options = KLOptions

    def __init__(self, options: KLOptions) -> None:
        """See `Observer`."""
        super().__init__(options.bins)
        self.kept = options.kept

    def choose(self, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS) -> Choice:
        """See `Observer`."""
        return spread(*kl_range(self, spec, readers, self.kept), spec)


def kl_range(
    histogram: Histogram, spec: QuantizationSpec, readers: Sequence[Reader] = AS_IT_IS, min_kept: float = KEPT
) -> tuple[float, float]:
    """Return (low, high), the range at which quantizing a tensor loses the least information.

    Args:
        histogram: the tensor's values.
        spec: how it is quantized, with `symmetric` decided.
        readers: of the tensor.
        min_kept: share of the values other than zero that it may not clip.
    """
    seen = _relevant(histogram, readers)
    if not seen.counts.any():
        return 0.0, 0.0
    middle = histogram.bins
    if spec.signed and not spec.symmetric:
        low, high = seen.first, seen.last
        for _ in range(ROUNDS):
            highs = np.arange(max(middle, low + spec.steps), seen.last + 1)
            high = _best(seen.counts, np.full(len(highs), low), highs, spec.steps, min_kept, (low, high))[1]
            lows = np.arange(seen.first, min(middle, high - spec.steps) + 1)
            low = _best(seen.counts, lows, np.full(len(lows), high), spec.steps, min_kept, (low, high))[0]
        ends = (low - middle) * histogram.width, (high - middle) * histogram.width
    else:
        magnitudes = seen.counts[middle:] + seen.counts[:middle][::-1]
        furthest = int(np.flatnonzero(magnitudes)[-1]) + 1
        thresholds = np.arange(min(spec.magnitude_steps, furthest), furthest + 1)
        nothing = np.zeros(len(thresholds), "int64")
        threshold = _best(magnitudes, nothing, thresholds, spec.magnitude_steps, min_kept, (0, furthest))[1]
        ends = -threshold * histogram.width, threshold * histogram.width
    return max(ends[0], histogram.minimum), min(ends[1], histogram.maximum)


@dataclass(frozen=True)
class _Relevant:
    """The part of a histogram that counts.

    Attributes:
        counts: [2 * bins] int64, as `Histogram.signed_counts`.
        first: the first bin that is used, or that of the first value above zero.
        last: the bin after the last one that is used, or after those below zero.
    """

    counts: Array
    first: int
    last: int


def _relevant(histogram: Histogram, readers: Sequence[Reader]) -> _Relevant:
    """Return a histogram in which values that nothing tells apart count as one."""
    counts, middle = histogram.signed_counts, histogram.bins
    used = np.flatnonzero(counts)
    if used.size == 0:
        return _Relevant(counts, middle, middle)
    first, last = int(used[0]), int(used[-1]) + 1
    if are_functions(readers):
        first, last = _changing(histogram, readers, first, last)
    first, last = min(first, middle), max(last, middle)
    merged = np.zeros_like(counts)
    merged[first:last] = counts[first:last]
    if first < last:
        merged[first] += counts[:first].sum()
        merged[last - 1] += counts[last:].sum()
    return _Relevant(merged, first, last)


def _changing(histogram: Histogram, readers: Sequence[Reader], first: int, last: int) -> tuple[int, int]:
    """Return between which bins functions change their values; the whole range if none does."""
    centres = (np.arange(first, last) - histogram.bins + 0.5) * histogram.width
    begin, end = last, first
    for reader in readers:
        values = read(reader, centres)
        limit = np.ptp(values) * FLAT
        if limit > 0:
            begin = min(begin, first + int(np.flatnonzero(np.abs(values - values[0]) > limit)[0]))
            end = max(end, first + int(np.flatnonzero(np.abs(values - values[-1]) > limit)[-1]) + 1)
    return (begin, end) if begin < end else (first, last)


def _best(
    counts: Array, firsts: Array, lasts: Array, levels: int, min_kept: float, otherwise: tuple[int, int]
) -> tuple[int, int]:
    """Return the range of bins with the smallest divergence of those that keep enough; `otherwise` if none does."""
    mass = _running(counts)
    kept = (mass[lasts] - mass[firsts]) / mass[-1] >= min_kept
    firsts, lasts = firsts[kept], lasts[kept]
    if len(firsts) == 0:
        return otherwise

    def best(places: Array) -> int:
        return int(places[np.argmin(divergences(counts, firsts[places], lasts[places], levels))])

    spread_out = np.linspace(0, len(firsts) - 1, CANDIDATES).astype("int64")
    coarse = best(spread_out[np.diff(spread_out, prepend=-1) > 0])
    apart = -(-len(firsts) // CANDIDATES)
    found = best(np.arange(max(coarse - apart, 0), min(coarse + apart + 1, len(firsts))))
    return int(firsts[found]), int(lasts[found])


def divergences(counts: Array, firsts: Array, lasts: Array, levels: int) -> Array:
    """Return KL(P || Q) for each of [C] candidate ranges of bins, [first, last): [C] float64.

    Within a level, Q is even over the bins that P uses. So with a level's mass M (outliers left out), the mass of P in
    it and its number n of used bins, sum(p log q) is sum(mass_P * log(M / n)) over levels: running sums over the
    histogram give every candidate in `levels` steps instead of one for each bin.
    """
    mass, used = _running(counts).astype("float64"), _running(counts > 0)
    entropy = _running(_xlogx(counts))
    total = mass[-1]
    kept = mass[lasts] - mass[firsts]
    below, above = mass[firsts], total - mass[lasts]
    p_log_p = entropy[lasts] - entropy[firsts]
    for end, outliers in ((firsts, below), (lasts - 1, above)):
        p_log_p += _xlogx(counts[end] + outliers) - _xlogx(counts[end])

    edges = firsts[:, None] + (lasts - firsts)[:, None] * np.arange(levels + 1) // levels
    level_mass = np.diff(mass[edges], axis=1)
    level_used = np.diff(used[edges], axis=1)
    level_used[:, 0] += (counts[firsts] == 0) & (below > 0)
    level_used[:, -1] += (counts[lasts - 1] == 0) & (above > 0)
    p_mass = level_mass.copy()
    p_mass[:, 0] += below
    p_mass[:, -1] += above
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(level_mass / level_used)
        p_log_q = np.where(p_mass > 0, p_mass * log_q, 0.0).sum(axis=1)
        return np.asarray((p_log_p - p_log_q) / total - np.log(total) + np.log(kept))


def _running(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)])


def _xlogx(counts: Array) -> Array:
    values = np.asarray(counts, "float64")
    return np.where(values > 0, values * np.log(np.maximum(values, 1.0)), 0.0)
