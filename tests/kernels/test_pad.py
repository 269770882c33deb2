"""`nn.pad`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import Pad
from tests.kernels.tensors import (
    CHANNELS,
    QUANTIZED_VALUES,
    SEEDS,
    assert_exact,
    every_vector_length,
    floats,
    quantized_values,
)

SIDES = st.integers(0, 3)


@every_vector_length
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 9),
    channels=CHANNELS,
    padding=st.tuples(SIDES, SIDES, SIDES, SIDES),
    value=QUANTIZED_VALUES,
    dtype=st.sampled_from(["uint8", "float32"]),
    seed=SEEDS,
)
def test_halo_is_filled_and_image_is_copied(
    isa_name: str,
    batch: int,
    height: int,
    width: int,
    channels: int,
    padding: tuple[int, int, int, int],
    value: int,
    dtype: str,
    seed: int,
) -> None:
    make = quantized_values if dtype == "uint8" else floats
    x = make(np.random.default_rng(seed), batch, height, width, channels)
    assert_exact(isa_name, Pad(padding, float(value)), x)


@every_vector_length
@pytest.mark.parametrize("value", [-np.inf, -1.5], ids=["lowest", "negative"])
def test_float_halo_takes_any_value(isa_name: str, value: float) -> None:
    assert_exact(isa_name, Pad((1, 2, 0, 1), float(value)), floats(np.random.default_rng(0), 1, 3, 3, 5))


@every_vector_length
def test_large_image_is_shared_out_to_threads(isa_name: str) -> None:
    assert_exact(isa_name, Pad((1, 1, 1, 1), 7.0), quantized_values(np.random.default_rng(0), 2, 56, 57, 33))
