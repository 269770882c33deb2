"""`nn.depth_to_space` moves every value to its place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialect.attributes import DepthToSpace
from tests.kernels.tensors import SEEDS, assert_exact, codes, every_vector_length, floats


@every_vector_length
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)),
    block=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(1, 70),
    integer=st.booleans(),
    seed=SEEDS,
)
def test_channels_become_pixels(
    isa_name: str, size: tuple[int, int, int], block: tuple[int, int], channels: int, integer: bool, seed: int
) -> None:
    make = codes if integer else floats
    x = make(np.random.default_rng(seed), *size, block[0] * block[1] * channels)
    assert_exact(isa_name, DepthToSpace(block), x)
