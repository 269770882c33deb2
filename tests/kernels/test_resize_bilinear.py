"""`nn.resize_bilinear`, and `qnn.resize_bilinear` exact to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import QResizeBilinear, ResizeBilinear
from tests.kernels.tensors import (
    CHANNELS,
    SEEDS,
    assert_close,
    assert_exact,
    every_vector_length,
    floats,
    quantized_values,
)

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
OUT = st.tuples(st.integers(1, 9), st.integers(1, 9))
STARTS = st.tuples(*[st.floats(-2.0, 3.0)] * 2)
STEPS = st.tuples(*[st.one_of(st.floats(0.0, 3.0), st.sampled_from([0.25, 0.5, 1.0, 2.0]))] * 2)

Pair = tuple[float, float]


@every_vector_length
@given(image=SIZES, channels=CHANNELS, size=OUT, starts=STARTS, steps=STEPS, seed=SEEDS)
def test_quantized_values(
    isa_name: str,
    image: tuple[int, int, int],
    channels: int,
    size: tuple[int, int],
    starts: Pair,
    steps: Pair,
    seed: int,
) -> None:
    x = quantized_values(np.random.default_rng(seed), *image, channels)
    assert_exact(isa_name, QResizeBilinear(size, starts, steps), x)


@every_vector_length
@given(image=SIZES, channels=CHANNELS, size=OUT, starts=STARTS, steps=STEPS, seed=SEEDS)
def test_floats(
    isa_name: str,
    image: tuple[int, int, int],
    channels: int,
    size: tuple[int, int],
    starts: Pair,
    steps: Pair,
    seed: int,
) -> None:
    x, operator = floats(np.random.default_rng(seed), *image, channels), ResizeBilinear(size, starts, steps)
    assert_close(isa_name, operator, x, rtol=1e-5, atol=1e-6 * float(np.abs(x).max()))


@every_vector_length
@pytest.mark.parametrize("channels", [1, 21, 256])
def test_a_segmentation_network_s_last_layer(isa_name: str, channels: int) -> None:
    operator = QResizeBilinear((104, 96), (-0.4375, -0.4375), (0.125, 0.125))
    assert_exact(isa_name, operator, quantized_values(np.random.default_rng(0), 1, 13, 12, channels))
