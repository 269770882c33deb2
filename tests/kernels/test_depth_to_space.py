"""`nn.depth_to_space`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import DepthToSpace
from tests.kernels.tensors import SEEDS, assert_exact, every_vector_length, floats, quantized_values

SIZES = st.integers(1, 5)


@every_vector_length
@given(
    shape=st.tuples(st.integers(1, 2), SIZES, SIZES),
    block=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    depth=st.one_of(st.integers(1, 20), st.integers(1, 100)),
    data=st.data(),
    dtype=st.sampled_from(["uint8", "float32"]),
    seed=SEEDS,
)
def test_blocks_of_channels_become_blocks_of_pixels(
    isa_name: str,
    shape: tuple[int, int, int],
    block: tuple[int, int],
    groups: int,
    depth: int,
    data: st.DataObject,
    dtype: str,
    seed: int,
) -> None:
    cut = []
    for size, factor in zip(shape[1:], block, strict=True):
        before = data.draw(st.integers(0, size * factor - 1))
        cut.append((before, data.draw(st.integers(0, size * factor - 1 - before))))
    operator = DepthToSpace(block, groups, (cut[0][0], cut[1][0], cut[0][1], cut[1][1]))
    make = quantized_values if dtype == "uint8" else floats
    assert_exact(isa_name, operator, make(np.random.default_rng(seed), *shape, block[0] * block[1] * groups * depth))


@every_vector_length
@pytest.mark.parametrize("groups", [1, 3], ids=["DCR", "CRD"])
def test_a_super_resolution_network_s_last_layer(isa_name: str, groups: int) -> None:
    assert_exact(isa_name, DepthToSpace((4, 4), groups), quantized_values(np.random.default_rng(0), 1, 45, 80, 48))
