"""`nn.stack`."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import Stack
from tests.kernels.tensors import CHANNELS, SEEDS, assert_exact, every_vector_length, floats, quantized_values


@every_vector_length
@given(
    count=st.integers(1, 5),
    height=st.integers(1, 60),
    channels=CHANNELS,
    dtype=st.sampled_from(["uint8", "float32"]),
    seed=SEEDS,
)
def test_tensors_become_a_batch(isa_name: str, count: int, height: int, channels: int, dtype: str, seed: int) -> None:
    random, make = np.random.default_rng(seed), quantized_values if dtype == "uint8" else floats
    parts = [make(random, 1, height, channels) for _ in range(count)]
    assert_exact(isa_name, Stack(count), *parts, activations=count)
