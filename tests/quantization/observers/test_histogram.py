"""Histograms see every value once and forget the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.quantization.observers.histogram import BINS, Histogram
from tests.properties import examples

values = hnp.arrays(
    "float32", st.integers(1, 40), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
)
batches = st.lists(values, min_size=1, max_size=5)


def filled(arrays: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.update(array)
    return histogram


def assert_equal(a: Histogram, b: Histogram) -> None:
    np.testing.assert_array_equal(a.counts, b.counts)
    assert (a.zeros, a.limit, a.minimum, a.maximum) == (b.zeros, b.limit, b.minimum, b.maximum)


@given(batches)
@examples(60)
def test_the_order_of_batches_does_not_matter(arrays: list[np.ndarray]) -> None:
    assert_equal(filled(arrays), filled(arrays[::-1]))


@given(batches, batches)
@examples(60)
def test_two_workers_merged_are_as_one(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    assert_equal(merged, filled(left + right))


@given(batches)
@examples(60)
def test_every_value_is_counted_once(arrays: list[np.ndarray]) -> None:
    histogram = filled(arrays)
    everything = np.concatenate(arrays)
    assert histogram.counts.sum() + histogram.zeros == everything.size
    assert histogram.zeros == (everything == 0).sum()
    assert (histogram.minimum, histogram.maximum) == (everything.min(), everything.max())


def test_bins_hold_what_numpy_says() -> None:
    data = np.random.default_rng(0).normal(size=10_000).astype("float32")
    histogram = filled([data[:100], data[100:]])
    expected, _ = np.histogram(np.abs(data), BINS, (0, histogram.limit))
    np.testing.assert_array_equal(histogram.counts, expected)


def test_memory_does_not_grow_with_the_data() -> None:
    histogram = Histogram()
    for i in range(50):
        histogram.update(np.full(1000, 1.5**i, "float32"))
    assert histogram.counts.nbytes == BINS * 8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        filled([np.array([1, value], "float32")])
