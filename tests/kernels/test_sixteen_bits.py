"""Operators that read or write values of 16 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ir.types import LARGEST_INT16
from pipeline.ops import (
    DepthToSpace,
    Dequantize,
    JoinSums,
    MaxPool2d,
    Operator,
    Pad,
    QAdd,
    QAvgPool2d,
    QDense,
    QInterpolate,
    QLookup,
    QMatMul,
    QMultiply,
    QPRelu,
    QResizeBilinear,
    Quantize,
    SplitBytes,
    UpsampleConcat,
)
from tests.kernels.convolutions import Convolution, integer_arguments
from tests.kernels.tensors import (
    SEEDS,
    Array,
    assert_exact,
    every_vector_length,
    floats,
    quantized_values,
    wide_values,
)
from tests.properties import examples

LIMITS = {"output_min": -LARGEST_INT16, "output_max": LARGEST_INT16, "output_dtype": "int16"}
SHORT = {"output_min": -300, "output_max": 20_000, "output_dtype": "int16"}
BYTE = {"output_zero_point": 9, "output_min": 3, "output_max": 250}


@pytest.mark.parametrize("value", [-LARGEST_INT16, -129, -128, -1, 0, 1, 127, 128, 255, 256, LARGEST_INT16])
def test_the_two_bytes_of_a_value_are_that_value(value: int) -> None:
    high, low = SplitBytes().evaluate(np.array([value], "int16")).astype("int32") - 128
    assert 256 * high + low == value


def test_joined_sums_are_rounded_once_for_each_sum_and_once_for_the_product() -> None:
    high, low, bias = np.float32(2**23 + 1), np.float32(129), np.float32(-(2.0**31))
    joined = JoinSums(output_dtype="float32").evaluate(np.array([[high], [low]]), bias[None], np.float32([1 / 3]))
    total = np.float32(np.float64(high) * 256 + low)
    assert joined == np.float32((total + bias) * np.float32(1 / 3))


@every_vector_length
@examples(2)
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple), seed=SEEDS)
def test_what_reads_one_tensor(isa_name: str, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    x, table = wide_values(random, *shape), wide_values(random, 256)
    assert_exact(isa_name, SplitBytes(), x)
    assert_exact(isa_name, Dequantize(0.01), x)
    assert_exact(isa_name, Quantize(777.0, output_dtype="int16"), floats(random, *shape))
    assert_exact(isa_name, QLookup(), quantized_values(random, *shape), table)
    for bits in (8, 12):
        entries = random.integers(-(2**22), 2**22 + 1, 2**bits + 1).astype("int32")
        assert_exact(isa_name, QInterpolate(**LIMITS), x, entries)
        assert_exact(isa_name, QInterpolate(**BYTE), x, entries // 128)
    slopes = np.linspace(-1, 1, shape[-1], dtype="float32")
    assert_exact(isa_name, QPRelu(**SHORT, multiplier=0.7), x, slopes)


@every_vector_length
@examples(2)
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple), seed=SEEDS)
def test_what_reads_two_tensors(isa_name: str, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    wide, byte = wide_values(random, *shape), quantized_values(random, *shape[-1:])
    one = {"a_multiplier": 16_000, "b_zero_point": 3, "b_multiplier": 1 << 21, "shift": 14}
    both = {"a_multiplier": 16_000, "b_multiplier": -15_999, "shift": 15}
    assert_exact(isa_name, QAdd(**LIMITS, **one), wide, byte, activations=2)
    assert_exact(isa_name, QAdd(**BYTE, **{**both, "shift": 22}), wide, wide[..., ::-1].copy(), activations=2)
    assert_exact(isa_name, QMultiply(**SHORT, b_zero_point=128, multiplier=0.01), wide, byte, activations=2)
    assert_exact(isa_name, QMultiply(**SHORT, multiplier=3e-5), wide, wide[..., ::-1].copy(), activations=2)


@every_vector_length
@examples(2)
@given(channels=st.integers(1, 70), seed=SEEDS)
def test_images(isa_name: str, channels: int, seed: int) -> None:
    image, window = wide_values(np.random.default_rng(seed), 2, 6, 5, channels), {"pool_size": (3, 3)}
    operators: tuple[tuple[Operator, tuple[Array, ...]], ...] = (
        (MaxPool2d(**window, padding=(1, 1, 1, 1)), ()),
        (QAvgPool2d(**LIMITS, **window, padding=(1, 1, 1, 1)), (np.full((6, 5), 0.13, "float32"),)),
        (QAvgPool2d(**BYTE, pool_size=(6, 5)), (np.full((1, 1), 1e-4, "float32"),)),
        (QResizeBilinear((12, 7), (-0.25, 0.1), (0.5, 0.7)), ()),
        (Pad((1, 0, 2, 3), -5.0), ()),
    )
    for operator, constants in operators:
        assert_exact(isa_name, operator, image, *constants)
    small = wide_values(np.random.default_rng(seed), 2, 3, 5, 7)
    assert_exact(isa_name, UpsampleConcat((1, 1, 2, 1), (1, 0, 2, 0), -5.0), image, small, activations=2)
    assert_exact(isa_name, DepthToSpace((2, 2)), wide_values(np.random.default_rng(seed), 1, 3, 4, 4 * channels))


@every_vector_length
@examples(2)
@given(rows=st.integers(1, 9), channels=st.integers(1, 150), seed=SEEDS)
def test_joined_sums(isa_name: str, rows: int, channels: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    sums = np.rint(floats(random, 2 * rows, channels) * 1000)
    bias, multiplier = floats(random, channels) * 1e4, random.random(channels).astype("float32") / 100
    for fields in (LIMITS, BYTE, {"output_dtype": "float32"}):
        assert_exact(isa_name, JoinSums(**fields), sums, bias, multiplier)


CONVOLUTIONS = (
    Convolution(1, 7, 9, 3, 20, (3, 3)),
    Convolution(2, 4, 9, 64, 36),
    Convolution(1, 8, 8, 1, 1, (3, 3), groups=40),
    Convolution(1, 6, 8, 1, 1, (5, 5), (2, 2), groups=3),
)


@examples(1)
@given(seed=SEEDS)
def test_products_with_results_of_16_bits(isa_name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    for convolution in CONVOLUTIONS:
        operator, arguments = convolution.integer(seed)
        assert_exact(isa_name, operator.__class__(**{**vars(operator), "output_zero_point": 0, **SHORT}), *arguments)
    assert_exact(isa_name, QDense(**LIMITS), *integer_arguments(random, (5, 70), (33, 70)))
    a, b = quantized_values(random, 2, 5, 40), quantized_values(random, 2, 40, 21)
    assert_exact(isa_name, QMatMul(**LIMITS, a_zero_point=7, multiplier=0.3), a, b, activations=2)


@examples(1)
@given(seed=SEEDS)
def test_products_of_values_of_16_bits(isa_name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    for convolution in CONVOLUTIONS:
        operator, (_, *constants) = convolution.integer(seed)
        x = wide_values(random, *convolution.x_shape)
        narrow = replace(operator, input_zero_point=0)
        for chosen in (narrow, replace(narrow, output_zero_point=0, **SHORT), replace(narrow, output_dtype="float32")):
            constants[-1] = (constants[-1] / 100).astype("float32")
            assert_exact(isa_name, chosen, x, *constants)
    _, *constants = integer_arguments(random, (5, 71), (33, 71))
    assert_exact(isa_name, QDense(**LIMITS), wide_values(random, 5, 71), *constants)


@examples(1)
@given(seed=SEEDS)
def test_rows_of_padding_are_left_out(isa_name: str, seed: int) -> None:
    convolution = Convolution(2, 9, 9, 64, 24, (3, 3))
    operator, (_, *constants, multiplier) = convolution.integer(seed)
    x = wide_values(np.random.default_rng(seed), *convolution.x_shape)
    x[:, 0] = x[:, -1] = 0
    padded = replace(operator, input_zero_point=0, zero_rows=(1, 1))
    assert_exact(isa_name, padded, x, *constants, (multiplier / 100).astype("float32"))
