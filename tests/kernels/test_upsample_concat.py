"""`nn.upsample_concat`."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import UpsampleConcat
from tests.kernels.tensors import QUANTIZED_VALUES, SEEDS, assert_exact, every_vector_length, floats, quantized_values

SIDES = st.integers(0, 3)


@every_vector_length
@given(
    batch=st.integers(1, 3),
    channels=st.lists(st.one_of(st.integers(1, 20), st.integers(1, 100)), min_size=1, max_size=4),
    rows=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    columns=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    halo=st.tuples(SIDES, SIDES, SIDES, SIDES),
    value=QUANTIZED_VALUES,
    dtype=st.sampled_from(["uint8", "float32"]),
    seed=SEEDS,
)
def test_enlarged_images_lie_side_by_side_in_a_halo(
    isa_name: str,
    batch: int,
    channels: list[int],
    rows: list[int],
    columns: list[int],
    halo: tuple[int, int, int, int],
    value: int,
    dtype: str,
    seed: int,
) -> None:
    random, make = np.random.default_rng(seed), quantized_values if dtype == "uint8" else floats
    images = [make(random, batch, 6 // rows[i], 6 // columns[i], c) for i, c in enumerate(channels)]
    factors = tuple(f for i in range(len(images)) for f in (rows[i], columns[i]))
    operator = UpsampleConcat(factors, halo, float(value))
    assert_exact(isa_name, operator, *images, activations=len(images))


@every_vector_length
def test_large_images_are_shared_out_to_threads(isa_name: str) -> None:
    random = np.random.default_rng(0)
    images = (
        quantized_values(random, 1, 10, 10, 24),
        quantized_values(random, 1, 40, 40, 24),
        quantized_values(random, 1, 80, 80, 23),
    )
    operator = UpsampleConcat((8, 8, 2, 2, 1, 1), (1, 1, 1, 1), 9.0)
    assert_exact(isa_name, operator, *images, activations=3)
