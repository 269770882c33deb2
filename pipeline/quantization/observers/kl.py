"""The KL threshold: where clipping loses as much information as coarse steps do.

Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. For every candidate threshold the distribution of
magnitudes, with all that lies above added to the last bin, is compared with what is left of it after quantization to
the available levels; the candidate with the smallest Kullback-Leibler divergence wins.

Known traps are avoided: thresholds aren't only searched in the upper half of the range; exact zeros, of which ReLU
makes many and which quantize without loss, don't count; and a candidate must keep nearly all of the values, as all
values in one clipped bin look like a perfect match where they come in lumps (a gate that is 1 nearly everywhere).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.quantization.observers.histogram import BINS, Histogram
from pipeline.quantization.observers.observer import Observer
from pipeline.quantization.spec import Choice, QuantizationSpec, clip
from pipeline.schema import Record

Array = npt.NDArray[Any]

KEPT = 0.9999
"""Share of the values other than zero that a candidate may not clip, by default."""

_CHUNK = 256
"""Candidates that are evaluated together; bounds the search's memory to a few megabytes."""


class KLOptions(Record, frozen=True, kw_only=True):
    """Options of `KL`.

    Attributes:
        bins: of the histogram of magnitudes; a power of two.
        kept: share of the values other than zero that no threshold may clip.
    """

    bins: Annotated[int, msgspec.Meta(ge=512, le=65536)] = BINS
    kept: Annotated[float, msgspec.Meta(ge=0, le=1)] = KEPT

    def __post_init__(self) -> None:
        """Check that bins are a power of two, as neighbours merge in pairs."""
        if self.bins & (self.bins - 1):
            raise ValueError(f"bins is {self.bins}; it must be a power of two")


class KL(Histogram, Observer):
    """Chooses the threshold at which the least information is lost (PaddleSlim: KL)."""

    algorithm = "kl"
    options = KLOptions

    def __init__(self, options: KLOptions) -> None:
        """See `Observer`."""
        super().__init__(options.bins)
        self.kept = options.kept

    def choose(self, spec: QuantizationSpec) -> Choice:
        """See `Observer`."""
        threshold = kl_threshold(self, spec.magnitude_steps, self.kept)
        return clip(self.minimum, self.maximum, threshold, spec)


def kl_threshold(histogram: Histogram, levels: int, min_kept: float = KEPT) -> float:
    """Return the threshold T at which quantizing [0, T] to `levels` steps loses the least information.

    Args:
        histogram: magnitudes of a tensor.
        levels: how many steps [0, T] is divided into: 127 if the tensor is signed, 255 if not.
        min_kept: share of the values other than zero that it may not clip.
    """
    used = np.flatnonzero(histogram.counts)
    if used.size == 0:
        return 0.0
    last = int(used[-1]) + 1
    largest = max(abs(histogram.minimum), abs(histogram.maximum))
    if last <= levels:
        return largest
    kept = np.cumsum(histogram.counts) / histogram.counts.sum()
    first = max(levels, int(np.searchsorted(kept, min_kept)) + 1)
    candidates = np.arange(min(first, last), last + 1)
    divergence = np.concatenate(
        [_divergence(histogram.counts, c, levels) for c in np.array_split(candidates, -(-candidates.size // _CHUNK))]
    )
    best = int(candidates[int(np.argmin(divergence))])
    return min(best * histogram.width, largest)


def _divergence(counts: Array, candidates: Array, levels: int) -> Array:
    """Return KL(P || Q) for each candidate number of kept bins, [len(candidates)] float64.

    Within a level, Q is even over the bins that P uses. So with a level's mass M (outliers left out), the mass of P in
    it and its number n of used bins, sum(p log q) is sum(mass_P * log(M / n)) over levels: running sums over the
    histogram give every candidate in `levels` steps instead of one for each bin.
    """
    mass = np.concatenate([[0], np.cumsum(counts)]).astype("float64")
    used = np.concatenate([[0], np.cumsum(counts > 0)])
    entropy = np.concatenate([[0.0], np.cumsum(_xlogx(counts.astype("float64")))])
    total = mass[-1]
    kept = mass[candidates]
    outliers = total - kept
    last_bin = counts[candidates - 1].astype("float64")
    p_log_p = entropy[candidates] - _xlogx(last_bin) + _xlogx(last_bin + outliers)

    edges = candidates[:, None] * np.arange(levels + 1) // levels
    level_mass = np.diff(mass[edges], axis=1)
    level_used = np.diff(used[edges], axis=1)
    level_used[:, -1] += (last_bin == 0) & (outliers > 0)
    p_mass = level_mass.copy()
    p_mass[:, -1] += outliers
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(level_mass / level_used)
        p_log_q = np.where(p_mass > 0, p_mass * log_q, 0.0).sum(axis=1)
        return np.asarray((p_log_p - p_log_q) / total - np.log(total) + np.log(kept))


def _xlogx(values: Array) -> Array:
    return np.where(values > 0, values * np.log(np.maximum(values, 1.0)), 0.0)
