"""Distances add up over batches, and say of odd tensors what can be said of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distances import Distance


def distance(expected: object, actual: object) -> Distance:
    found = Distance()
    found.update(np.asarray(expected, "float32"), np.asarray(actual, "float32"))
    return found


def test_noise_of_a_tenth_of_the_amplitude_is_20_decibels_below() -> None:
    assert distance([10, 0], [10, 1]).sqnr_db == pytest.approx(20)


@pytest.mark.parametrize(
    ("expected", "actual", "cosine"),
    [
        ([1, 0], [0, 2], 0.0),
        ([1, 2], [2, 4], 1.0),
        ([1, 2], [-1, -2], -1.0),
        ([3, 4], [4, 3], 0.96),
        ([0, 0], [0, 0], 1.0),
        ([0, 0], [0, 1], 0.0),
        ([1, np.inf], [1, 5], 1.0),
        ([], [], 1.0),
        ([1e30, 1e30], [1e30, 1e30], 1.0),
    ],
    ids=["orthogonal", "longer", "opposite", "angle", "zero", "one zero", "infinite", "empty", "large"],
)
def test_cosine_is_that_of_the_angle_between_finite_values(
    expected: list[float], actual: list[float], cosine: float
) -> None:
    assert distance(expected, actual).cosine == pytest.approx(cosine)


values = st.lists(st.tuples(st.integers(-100, 100), st.integers(-100, 100)), min_size=1, max_size=30)


@given(values, st.integers(0, 30))
def test_batches_add_up_to_the_whole(pairs: list[tuple[int, int]], cut: int) -> None:
    # Sums of small integers are exact, so both ways must be equal.
    expected, actual = np.array(pairs, "float32").T
    parts = Distance()
    for batch in (slice(None, cut), slice(cut, None)):
        parts.update(expected[batch], actual[batch])
    whole = distance(expected, actual)
    assert (parts.sqnr_db, parts.cosine) == (whole.sqnr_db, whole.cosine)
