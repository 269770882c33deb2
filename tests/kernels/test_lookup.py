"""`qnn.lookup`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialect.attributes import QLookup
from tests.kernels.tensors import SEEDS, assert_exact, codes

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)


@given(shape=SHAPES, seed=SEEDS)
def test_every_value_is_replaced(isa_name: str, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, QLookup(), codes(random, *shape), codes(random, 256))


@pytest.mark.parametrize("length", [256, 1000, 65_536, 70_001])
def test_long_tensors(isa_name: str, length: int) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.arange(256, dtype="uint8"), codes(random, length - 256)])
    assert_exact(isa_name, QLookup(), x, codes(random, 256))
