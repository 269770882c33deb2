"""Statistics of tensors."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ops
from pipeline.quantization.corrections.moments import Columns, SecondMoments
from pipeline.quantization.statistics import (
    BLOCK,
    ChannelMaxima,
    ChannelMeans,
    KeptBatches,
    KeptMeans,
    Need,
    Statistic,
    is_held_back,
)
from tests.properties import examples


def test_means_are_of_each_channel_over_all_batches() -> None:
    batches = [np.random.default_rng(i).standard_normal((2, 3, 4, 5)).astype("float32") for i in range(3)]
    seen = ChannelMeans()
    for batch in batches:
        seen.update(batch)
    expected = np.concatenate(batches).astype("float64").mean(axis=(0, 1, 2))
    np.testing.assert_allclose(seen.means, expected, rtol=1e-12)


def test_a_tensor_without_values_has_the_mean_zero() -> None:
    seen = ChannelMeans()
    seen.update(np.zeros((0, 3), "float32"))
    assert seen.means.tolist() == [0.0]


def numbered(count: int, first: int = 0) -> list[np.ndarray]:
    return [np.full((2, 3), number, "float32") for number in range(first, first + count)]


def kept(batches: list[np.ndarray], limit: int) -> KeptBatches:
    seen = KeptBatches(limit, limit // 2)
    for batch in batches:
        seen.update(batch)
    return seen


def test_means_leave_out_what_is_held_back() -> None:
    seen = ChannelMeans()
    for batch in numbered(8):
        seen.update(batch)
    assert seen.means.tolist() == [np.mean([0, 1, 2, 4, 5, 6])] * 3


def test_none_is_kept_to_learn_from_where_the_limit_is_0() -> None:
    seen = KeptBatches(0, 1)
    for batch in numbered(8):
        seen.update(batch)
    assert seen.learned_from == []
    assert len(seen.held_back) == 1


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
    batches, means = kept(numbered(50), 6), KeptMeans(6, 3)
    for batch in numbered(50):
        means.update(batch)
    assert [m.tolist() for m in means.learned_from] == [b[0].tolist() for b in batches.learned_from]
    assert [m.tolist() for m in means.held_back] == [b[0].tolist() for b in batches.held_back]


NEEDS = [
    Need("x", ChannelMeans),
    Need("x", ChannelMaxima),
    Need("x", KeptBatches, (6, 3)),
    Need("x", KeptMeans, (3, 6)),
    Need("x", SecondMoments, (Columns(ops.Dense(), (6, 3), 2),)),
]
every_statistic = pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.statistic.__name__)
counts = st.integers(1, 20 * BLOCK)


def values(count: int) -> list[np.ndarray]:
    """Return batches whose channels are of magnitudes so different that the order of additions shows."""
    random = np.random.default_rng(count)
    scales = 10 ** random.uniform(-9, 9, (count, 1, 3))
    return list((random.standard_normal((count, 2, 3)) * scales).astype("float32"))


def seen_of(need: Need, batches: list[np.ndarray], first: int = 0) -> Statistic:
    statistic = need.make(first)
    for batch in batches:
        statistic.update(batch)
    return statistic


def stored(statistic: Statistic, need: Need) -> Statistic:
    """Return a statistic after its state has been a file without pickled objects."""
    file = io.BytesIO()
    np.savez(file, **statistic.state())
    file.seek(0)
    other = need.make()
    with np.load(file, allow_pickle=False) as state:
        other.restore(dict(state))
    return other


def assert_equal(found: Statistic, expected: Statistic) -> None:
    states = found.state(), expected.state()
    assert states[0].keys() == states[1].keys()
    for key, value in states[1].items():
        assert states[0][key].dtype == value.dtype
        assert states[0][key].tobytes() == value.tobytes(), key


@every_statistic
@given(count=counts)
@examples(20)
def test_blocks_merged_are_the_whole_to_the_last_bit(need: Need, count: int) -> None:
    batches = values(count)
    merged = need.make()
    for first in range(0, count, BLOCK):
        merged.merge(stored(seen_of(need, batches[first : first + BLOCK], first), need))
    assert_equal(merged, seen_of(need, batches))


@every_statistic
@given(count=counts, at=st.integers(0, 20 * BLOCK))
@examples(10)
def test_what_is_stored_and_goes_on_is_as_one_that_never_stopped(need: Need, count: int, at: int) -> None:
    batches = values(count)
    resumed = stored(seen_of(need, batches[:at]), need)
    for batch in batches[at:]:
        resumed.update(batch)
    assert_equal(resumed, seen_of(need, batches))


@pytest.mark.parametrize(("first", "count"), [(0, 3), (BLOCK, 3), (3, 3), (3 * BLOCK, 1), (2 * BLOCK, BLOCK + 1)])
def test_only_the_next_block_can_be_merged(first: int, count: int) -> None:
    need = NEEDS[0]
    seen = seen_of(need, values(2 * BLOCK))
    with pytest.raises(ValueError, match="aren't the block after 32 batches"):
        seen.merge(seen_of(need, values(count), first))
