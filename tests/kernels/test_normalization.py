"""`nn.softmax` and `nn.layer_norm`: close to NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import LayerNorm, Softmax
from tests.kernels.tensors import CHANNELS, SEEDS, Array, assert_close, every_vector_length, floats

ROWS = st.lists(st.integers(1, 4), max_size=3)


def assert_softmax_is_close(isa_name: str, x: Array) -> None:
    assert_close(isa_name, Softmax(), x, rtol=2e-5, atol=2e-6)


@every_vector_length
@given(rows=ROWS, length=CHANNELS, seed=SEEDS)
def test_softmax(isa_name: str, rows: list[int], length: int, seed: int) -> None:
    assert_softmax_is_close(isa_name, floats(np.random.default_rng(seed), *rows, length))


@every_vector_length
@pytest.mark.parametrize("length", [1, 3, 40, 1001])
def test_softmax_of_extremes(isa_name: str, length: int) -> None:
    extremes = np.zeros((4, length), "float32")
    extremes[1] = np.linspace(-1e30, 1e30, length)
    extremes[2, 1:] = -np.inf
    extremes[3] = 3e38
    assert_softmax_is_close(isa_name, extremes)


@every_vector_length
@given(
    rows=ROWS,
    length=CHANNELS,
    offset=st.floats(-100, 100, width=32),
    epsilon=st.sampled_from([1e-3, 1e-5]),
    seed=SEEDS,
)
def test_layer_norm(isa_name: str, rows: list[int], length: int, offset: float, epsilon: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.standard_normal((*rows, length)) + offset).astype("float32")
    gamma, beta = random.standard_normal((2, length)).astype("float32")
    # Where the mean is large, x itself has few digits left for what differs from it.
    tolerance = 1e-5 + 1e-6 * abs(offset) / np.sqrt(epsilon)
    assert_close(isa_name, LayerNorm(epsilon), x, gamma, beta, rtol=1e-5, atol=tolerance)
