"""How outputs are compared on samples that corrections haven't seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.distances import Distance
from pipeline.quantization.corrections.kept import mean_sqnr_db, walked


def distances(noise: list[float], signal: float = 1.0) -> list[Distance]:
    found = []
    for value in noise:
        distance = Distance()
        distance.update(np.array([signal]), np.array([signal + value]))
        found.append(distance)
    return found


def test_batches_with_the_same_noise_have_the_usual_ratio() -> None:
    assert mean_sqnr_db([distances([0.1, -0.1, 0.1])]) == pytest.approx(20)


def test_a_single_noisy_batch_does_not_decide() -> None:
    usual, one_bad = [0.1] * 24 + [0.3], [0.05] * 24 + [1.0]
    assert mean_sqnr_db([distances(one_bad)]) > mean_sqnr_db([distances(usual)])


def test_outputs_count_alike_whatever_their_scale() -> None:
    boxes, scores = distances([10.0], signal=1000.0), distances([0.1])
    assert mean_sqnr_db([boxes, scores]) == pytest.approx((40 + 20) / 2)


def test_outputs_without_noise_or_signal_do_not_count() -> None:
    assert mean_sqnr_db([distances([0.1]), distances([0.0]), distances([0.1], signal=0.0)]) == pytest.approx(20)


def test_no_noise_at_all_is_infinite_and_a_value_that_is_not_finite_is_worst() -> None:
    assert mean_sqnr_db([distances([0.0])]) == math.inf
    assert mean_sqnr_db([distances([0.1]), distances([math.inf])]) == -math.inf


@pytest.mark.parametrize(("held_back", "learned_from", "taken"), [(32, 16, 8), (25, 16, 7), (8, 4, 2), (2, 8, 2)])
def test_a_walk_takes_a_few_of_the_batches_held_back_spread_evenly(
    held_back: int, learned_from: int, taken: int
) -> None:
    found = walked(range(held_back), learned_from)
    assert len(found) == taken
    assert len(set(np.diff(found))) <= 1
