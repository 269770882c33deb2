"""`qnn.dense` and `nn.dense`."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import pipeline.kernels.ops.conv  # noqa: F401
from pipeline.ops import Dense, QDense
from tests.kernels.convolutions import integer_arguments
from tests.kernels.tensors import assert_close, assert_exact

SHAPES = st.lists(st.integers(1, 5), min_size=0, max_size=2).map(tuple)


@given(
    leading=SHAPES,
    depth=st.integers(1, 100),
    out=st.integers(1, 150),
    zero_point=st.integers(0, 255),
    seed=st.integers(0, 2**32),
    output_dtype=st.sampled_from(["uint8", "float32"]),
)
def test_integer_dense_is_bit_exact(
    isa_name: str, leading: tuple[int, ...], depth: int, out: int, zero_point: int, seed: int, output_dtype: str
) -> None:
    operator = QDense(output_zero_point=128, input_zero_point=zero_point, output_dtype=output_dtype)
    arguments = integer_arguments(np.random.default_rng(seed), (*leading, depth), (out, depth))
    assert_exact(isa_name, operator, *arguments)


@given(
    leading=SHAPES,
    depth=st.integers(1, 100),
    out=st.integers(1, 150),
    seed=st.integers(0, 2**32),
    x_dtype=st.sampled_from(["uint8", "int16"]),
)
def test_weights_of_4_bits_are_stored_two_in_a_byte(
    isa_name: str, leading: tuple[int, ...], depth: int, out: int, seed: int, x_dtype: str
) -> None:
    x, weight, *others = integer_arguments(np.random.default_rng(seed), (*leading, depth), (out, depth))
    weight = (weight >> 4).astype("int8")
    assert_exact(isa_name, QDense(output_zero_point=128), x.astype(x_dtype), weight, *others)


@given(leading=SHAPES, depth=st.integers(1, 100), out=st.integers(1, 150), seed=st.integers(0, 2**32))
def test_float_dense_is_close(isa_name: str, leading: tuple[int, ...], depth: int, out: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    arguments = [random.standard_normal(s).astype("float32") for s in ((*leading, depth), (out, depth), (out,))]
    operator = Dense(clip_min=0.0)
    assert_close(isa_name, operator, *arguments, rtol=1e-4, atol=1e-4)


def test_classifiers_and_transformers_are_bit_exact(isa_name: str) -> None:
    operator = QDense(output_zero_point=100, input_zero_point=7)
    for batch, depth, out in ((1, 2048, 1000), (8, 512, 1000), (197, 192, 576)):
        assert_exact(isa_name, operator, *integer_arguments(np.random.default_rng(0), (batch, depth), (out, depth)))
