"""Pieces that overlap: together they have each value, and each value is new in one of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.lib import tails

SIZES = st.integers(1, 70)


@given(size=SIZES, total=SIZES)
def test_each_value_is_new_in_one_piece(size: int, total: int) -> None:
    index = tails.starts(size, total)[:, np.newaxis] + np.arange(size)
    assert sorted(index[tails.fresh(size, total)]) == list(range(total))


@given(size=SIZES, total=SIZES)
def test_pieces_stay_inside_unless_the_only_one_is_too_long(size: int, total: int) -> None:
    starts = tails.starts(size, total)
    assert starts.min() == 0
    assert starts.max() + size == (total if total >= size else size)


@given(size=SIZES, total=SIZES)
def test_loops_begin_a_piece_where_packed_constants_do(size: int, total: int) -> None:
    starts = tails.starts(size, total)
    assert [tails.start(piece, size, total) for piece in range(len(starts))] == starts.tolist()
