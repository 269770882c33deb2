"""`qnn.softmax`: exact to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import QSoftmax
from tests.kernels.tensors import (
    CHANNELS,
    SEEDS,
    Array,
    assert_exact,
    every_vector_length,
    quantized_values,
    requantization,
)


def exponentials(scale: float, bits: int = 16) -> Array:
    return np.rint(np.exp(-scale * np.arange(256)) * 2**bits).astype("int32")


@every_vector_length
@given(
    rows=st.lists(st.integers(1, 4), max_size=3),
    length=CHANNELS,
    fields=requantization(),
    scale=st.floats(1e-3, 1.0),
    multiplier=st.sampled_from([255.0, 256.0, 1000.0]),
    seed=SEEDS,
)
def test_rows(
    isa_name: str,
    rows: list[int],
    length: int,
    fields: dict[str, int],
    scale: float,
    multiplier: float,
    seed: int,
) -> None:
    x = quantized_values(np.random.default_rng(seed), *rows, length)
    assert_exact(isa_name, QSoftmax(**fields, multiplier=multiplier), x, exponentials(scale))


@every_vector_length
@pytest.mark.parametrize("shape", [(8, 197, 197), (1, 1), (70, 3), (3, 10_000)], ids=str)
def test_shapes_of_real_networks(isa_name: str, shape: tuple[int, ...]) -> None:
    assert_exact(isa_name, QSoftmax(), quantized_values(np.random.default_rng(0), *shape), exponentials(0.05))


@every_vector_length
def test_sums_up_to_31_bits(isa_name: str) -> None:
    assert_exact(isa_name, QSoftmax(), np.full((2, 127), 9, "uint8"), exponentials(0.1, bits=24))
