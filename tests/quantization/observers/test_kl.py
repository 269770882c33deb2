"""The KL threshold, held against the algorithm written out as its paper has it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.kl import divergences, kl_range
from pipeline.quantization.observers.readers import AS_IT_IS, Array, Reader
from pipeline.quantization.spec import QuantizationSpec

UNSIGNED = QuantizationSpec(signed=False, symmetric=False)
SYMMETRIC = QuantizationSpec(signed=True, symmetric=True)
AFFINE = QuantizationSpec(signed=True, symmetric=False)


def divergence_by_definition(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """KL(P || Q) for one candidate, bin by bin."""
    p = counts[first:last].astype(float)
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    q = np.zeros(last - first)
    edges = [(last - first) * i // levels for i in range(levels + 1)]
    for low, high in itertools.pairwise(edges):
        used = p[low:high] > 0
        if used.any():
            q[low:high][used] = counts[first + low : first + high].sum() / used.sum()
    p, q = p / p.sum(), q / q.sum()
    if (q[p > 0] == 0).any():
        return math.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("seed", range(5))
def test_running_sums_give_the_divergence_of_every_candidate(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.poisson(np.exp(-np.abs(np.arange(200) - 60) / 25.0) * 30) * random.integers(0, 2, 200)
    counts[[0, -1]] = 1
    candidates = [(first, last) for first in range(0, 80, 7) for last in range(first + 16, 201)]
    firsts, lasts = np.array(candidates).T
    expected = [divergence_by_definition(counts, *candidate, 16) for candidate in candidates]
    np.testing.assert_allclose(divergences(counts, firsts, lasts, 16), expected, rtol=1e-9, atol=1e-12)


def observed(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype("float32"))
    return histogram


def test_a_few_outliers_are_clipped() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=200_000), [50.0]])
    assert 3 < kl_range(observed(np.abs(values)), UNSIGNED)[1] < 10
    low, high = kl_range(observed(values), SYMMETRIC)
    assert 3 < high < 10
    assert -10 < low < -3


def test_each_end_of_an_affine_range_is_searched() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    low, high = kl_range(observed(np.concatenate([values[values > -1], [50.0]])), AFFINE)
    assert -1.01 < low < -0.99
    assert 3 < high < 10
    low, high = kl_range(observed(np.concatenate([values[values < 1], [-50.0]])), AFFINE)
    assert -10 < low < -3
    assert 0.99 < high < 1.01


def test_evenly_spread_values_are_not_clipped() -> None:
    values = np.random.default_rng(0).uniform(0, 8, 200_000)
    assert kl_range(observed(values), UNSIGNED)[1] > 7.9


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE])
def test_zeros_do_not_count(spec: QuantizationSpec) -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    with_zeros = np.concatenate([values, np.zeros(500_000)])
    assert kl_range(observed(values), spec) == kl_range(observed(with_zeros), spec)


def test_values_in_lumps_are_kept() -> None:
    values = np.concatenate([np.full(10_000, 1.0), np.full(30, 0.01)])
    assert kl_range(observed(values), UNSIGNED)[1] == 1.0


@pytest.mark.parametrize("spec", [UNSIGNED, SYMMETRIC, AFFINE])
def test_a_tensor_that_is_always_zero(spec: QuantizationSpec) -> None:
    assert kl_range(observed(np.zeros(10)), spec) == (0.0, 0.0)


def clip(values: Array) -> Array:
    return np.clip(values, 0.0, 6.0)


@pytest.mark.parametrize("spec", [SYMMETRIC, AFFINE])
def test_what_a_function_makes_alike_counts_as_one(spec: QuantizationSpec) -> None:
    values = np.random.default_rng(0).normal(scale=50, size=100_000)
    low, high = kl_range(observed(values), spec, (clip,))
    assert 5.9 < high < 6.1
    assert low == (-high if spec.symmetric else 0.0)


@pytest.mark.parametrize("readers", [(clip, *AS_IT_IS), AS_IT_IS])
def test_a_tensor_that_is_read_as_it_is_keeps_its_range(readers: tuple[Reader, ...]) -> None:
    values = np.random.default_rng(0).uniform(-50, 50, size=100_000)
    low, high = kl_range(observed(values), AFFINE, readers)
    assert low < -49
    assert high > 49
