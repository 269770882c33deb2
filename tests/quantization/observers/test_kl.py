"""The KL threshold, held against the algorithm written out as its paper has it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.kl import _divergence, kl_threshold


def divergence_by_definition(counts: np.ndarray, kept: int, levels: int) -> float:
    """KL(P || Q) for one candidate, bin by bin."""
    p = counts[:kept].astype(float)
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    edges = [kept * i // levels for i in range(levels + 1)]
    for low, high in itertools.pairwise(edges):
        used = p[low:high] > 0
        if used.any():
            q[low:high][used] = counts[low:high].sum() / used.sum()
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        return math.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("seed", range(5))
def test_running_sums_give_the_divergence_of_every_candidate(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.poisson(np.exp(-np.arange(200) / 25.0) * 30) * random.integers(0, 2, 200)
    counts[-1] = 1
    candidates = np.arange(16, 201)
    expected = [divergence_by_definition(counts, int(c), 16) for c in candidates]
    np.testing.assert_allclose(_divergence(counts, candidates, 16), expected, rtol=1e-9, atol=1e-12)


def observed(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype("float32"))
    return histogram


def test_a_few_outliers_are_clipped() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=200_000), [50.0]])
    threshold = kl_threshold(observed(values), 127)
    assert 3 < threshold < 10


def test_evenly_spread_values_are_not_clipped() -> None:
    values = np.random.default_rng(0).uniform(0, 8, 200_000)
    assert kl_threshold(observed(values), 255) > 7.9


def test_zeros_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    with_zeros = np.concatenate([values, np.zeros(500_000)])
    assert kl_threshold(observed(values), 127) == kl_threshold(observed(with_zeros), 127)


def test_values_in_lumps_are_kept() -> None:
    values = np.concatenate([np.full(10_000, 1.0), np.full(30, 0.01)])
    assert kl_threshold(observed(values), 255) == 1.0


def test_a_tensor_that_is_always_zero() -> None:
    assert kl_threshold(observed(np.zeros(10)), 127) == 0.0
