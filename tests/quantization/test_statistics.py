"""Statistics of tensors."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.statistics import ChannelMeans, KeptBatches, KeptMeans, is_held_back


def test_means_are_of_each_channel_over_all_batches() -> None:
    batches = [np.random.default_rng(i).standard_normal((2, 3, 4, 5)).astype("float32") for i in range(3)]
    seen, other = ChannelMeans(), ChannelMeans()
    seen.update(batches[0])
    for batch in batches[1:]:
        other.update(batch)
    seen.merge(other)
    expected = np.concatenate(batches).astype("float64").mean(axis=(0, 1, 2))
    np.testing.assert_allclose(seen.means, expected, rtol=1e-12)


def test_a_tensor_without_values_has_the_mean_zero() -> None:
    seen = ChannelMeans()
    seen.update(np.zeros((0, 3), "float32"))
    seen.merge(ChannelMeans())
    assert seen.means.tolist() == [0.0]


def numbered(count: int, first: int = 0) -> list[np.ndarray]:
    return [np.full((2, 3), number, "float32") for number in range(first, first + count)]


def kept(batches: list[np.ndarray], limit: int) -> KeptBatches:
    seen = KeptBatches(limit)
    for batch in batches:
        seen.update(batch)
    return seen


def test_means_leave_out_what_is_held_back() -> None:
    seen = ChannelMeans()
    for batch in numbered(8):
        seen.update(batch)
    assert seen.means.tolist() == [np.mean([0, 1, 2, 4, 5, 6])] * 3


def test_a_few_batches_are_all_kept() -> None:
    seen = kept(numbered(8), 10)
    assert [b[0, 0] for b in seen.learned_from] == [0, 1, 2, 4, 5, 6]
    assert [b[0, 0] for b in seen.held_back] == [3, 7]


def test_of_many_batches_as_many_are_kept_as_there_is_room_for_and_they_are_spread() -> None:
    seen = kept(numbered(400), 20)
    learned, held_back = ([int(b[0, 0]) for b in side] for side in (seen.learned_from, seen.held_back))
    assert (len(learned), len(held_back)) == (20, 10)
    assert not any(map(is_held_back, learned))
    assert all(map(is_held_back, held_back))
    for side in (learned, held_back):
        assert max(np.diff([0, *side, 400])) < 4 * 400 / len(side)


def test_the_same_batches_of_every_tensor_are_kept() -> None:
    batches, means = kept(numbered(50), 6), KeptMeans(6)
    for batch in numbered(50):
        means.update(batch)
    assert [m.tolist() for m in means.learned_from] == [b[0].tolist() for b in batches.learned_from]
    assert [m.tolist() for m in means.held_back] == [b[0].tolist() for b in batches.held_back]


def test_two_parts_merged_keep_no_more_than_there_is_room_for() -> None:
    first, second = kept(numbered(40), 6), kept(numbered(40, first=40), 6)
    first.merge(second)
    numbers = [int(b[0, 0]) for b in first.learned_from]
    assert len(numbers) == 6
    assert not any(map(is_held_back, numbers))
