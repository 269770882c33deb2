"""How a product is cut into tasks for threads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.gemm.parallel import TASKS, chunks_and_runs


def shares(tiles: int, blocks: int, chunks: int, runs: int) -> list[int]:
    """Return how many tiles of a channel block each of two threads computes: the first and the second half of tasks."""
    work = [
        ((c + 1) * tiles // chunks - c * tiles // chunks) * ((r + 1) * blocks // runs - r * blocks // runs)
        for c in range(chunks)
        for r in range(runs)
    ]
    half = -(-len(work) // 2)
    return [sum(work[:half]), sum(work[half:])]


@given(
    tiles=st.integers(4, 500),
    blocks=st.integers(1, 64),
    most_chunks=st.sampled_from([2, 4, 8]),
    outweighed=st.floats(0, 4),
)
def test_two_threads_get_the_same_tiles_but_for_one(
    tiles: int, blocks: int, most_chunks: int, outweighed: float
) -> None:
    chunks, runs = chunks_and_runs(tiles, blocks, outweighed=outweighed, most_chunks=most_chunks)
    first, second = shares(tiles, blocks, chunks, runs)
    assert first + second == tiles * blocks
    assert abs(first - second) <= blocks


@given(tiles=st.integers(1, 500), blocks=st.integers(1, 64), most_chunks=st.sampled_from([1, 2, 4, 8]))
def test_no_task_is_empty(tiles: int, blocks: int, most_chunks: int) -> None:
    chunks, runs = chunks_and_runs(tiles, blocks, outweighed=0, most_chunks=most_chunks)
    assert chunks <= min(tiles, most_chunks)
    assert runs <= blocks
    assert chunks * runs <= TASKS


@pytest.mark.parametrize(("tiles", "chunks"), [(14, 4), (16, 8), (4, 2), (3, 1)])
def test_chunks_have_two_tiles_at_least(tiles: int, chunks: int) -> None:
    assert chunks_and_runs(tiles, 16, outweighed=1, most_chunks=8) == (chunks, TASKS // chunks)


def test_threads_share_channels_where_weights_far_outweigh_activations() -> None:
    assert chunks_and_runs(7, 16, outweighed=5, most_chunks=8) == (1, 16)
