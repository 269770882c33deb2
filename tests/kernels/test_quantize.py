"""`qnn.quantize` and `qnn.dequantize`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.isa import instruction_set, instruction_sets
from pipeline.ops import Dequantize, Operator, Quantize, QuantizeImage
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import compile_target
from tests.kernels.tensors import QUANTIZED_VALUES, SEEDS, assert_exact, every_vector_length, floats, quantized_values

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)
SCALES = st.one_of(st.sampled_from([1.0, 0.5, 2.0**-7]), st.floats(1e-6, 1e3))
SPECIAL = np.array(
    [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 2.0**31, -(2.0**31), 1e-45, 0.5, 1.5, 2.5, -0.5, -1.5],
    "float32",
)
CONVERSIONS = {"quantize": Quantize(20.0, 3), "dequantize": Dequantize(0.05, 3)}


@every_vector_length
@given(shape=SHAPES, scale=SCALES, zero_point=QUANTIZED_VALUES, seed=SEEDS)
def test_quantize(isa_name: str, shape: tuple[int, ...], scale: float, zero_point: int, seed: int) -> None:
    inverse_scale = float(np.float32(1 / scale))
    x = floats(np.random.default_rng(seed), *shape) * np.float32(scale)
    assert_exact(isa_name, Quantize(inverse_scale, zero_point), x)


@every_vector_length
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 140)),
    halo=st.tuples(*[st.integers(0, 2)] * 4),
    zero_point=QUANTIZED_VALUES,
    seed=SEEDS,
)
def test_quantize_image(
    isa_name: str, shape: tuple[int, ...], halo: tuple[int, int, int, int], zero_point: int, seed: int
) -> None:
    x = floats(np.random.default_rng(seed), *shape)
    assert_exact(isa_name, QuantizeImage(20.0, zero_point, halo, seed % 256), x)


@every_vector_length
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(5, 40), st.integers(1, 70)),
    halo=st.tuples(*[st.integers(0, 2)] * 4),
    rows=st.integers(2, 7),
    row_step=st.integers(1, 3),
    zero_point=QUANTIZED_VALUES,
    seed=SEEDS,
)
def test_quantize_image_unfolded(
    isa_name: str,
    shape: tuple[int, ...],
    halo: tuple[int, int, int, int],
    rows: int,
    row_step: int,
    zero_point: int,
    seed: int,
) -> None:
    x = floats(np.random.default_rng(seed), *shape)
    fitting = min(rows, shape[2])
    assert_exact(isa_name, QuantizeImage(20.0, zero_point, halo, seed % 256, fitting, row_step), x)


@every_vector_length
def test_large_images_are_shared_out_to_threads(isa_name: str) -> None:
    x = floats(np.random.default_rng(0), 2, 3, 113, 120)
    assert_exact(isa_name, QuantizeImage(20.0, 3, (1, 1, 0, 0), 7), x)
    assert_exact(isa_name, QuantizeImage(20.0, 3, (1, 1, 0, 0), 7, 3, 2), x)


@every_vector_length
@given(shape=SHAPES, scale=SCALES, zero_point=QUANTIZED_VALUES, seed=SEEDS)
def test_dequantize(isa_name: str, shape: tuple[int, ...], scale: float, zero_point: int, seed: int) -> None:
    assert_exact(isa_name, Dequantize(scale, zero_point), quantized_values(np.random.default_rng(seed), *shape))


@every_vector_length
@pytest.mark.parametrize("zero_point", [1, 128])
def test_halves_go_to_even(isa_name: str, zero_point: int) -> None:
    x = (np.arange(-600, 600) / 2).astype("float32")
    assert_exact(isa_name, Quantize(1.0, zero_point), x)


@every_vector_length
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_infinities_saturate_and_nan_becomes_255(isa_name: str, zero_point: int) -> None:
    for length in (1, 16, 200):
        assert_exact(isa_name, Quantize(1.0, zero_point), np.resize(SPECIAL, length))


@every_vector_length
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_every_code(isa_name: str, zero_point: int) -> None:
    assert_exact(isa_name, Dequantize(0.0173, zero_point), np.arange(256, dtype="uint8"))


@every_vector_length
@pytest.mark.parametrize("length", [65_535, 65_536, 150_529])
def test_long_tensors_are_shared_out_to_threads(isa_name: str, length: int) -> None:
    random = np.random.default_rng(0)
    assert_exact(isa_name, Quantize(20.0, 3), floats(random, length))
    assert_exact(isa_name, Dequantize(0.05, 3), quantized_values(random, length))


@pytest.mark.parametrize("operator", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("isa_name", instruction_sets())
@pytest.mark.parametrize("length", [1, 640])
def test_conversions_are_instructions(isa_name: str, operator: Operator, length: int) -> None:
    x = np.zeros(length, "float32" if isinstance(operator, Quantize) else "uint8")
    kernel = generate(make_operation(operator, x), instruction_set(isa_name))
    text = assembly(kernel, compile_target(isa_name))
    rounding = r"\bv?(?:round[ps]s|rndscale[ps]s|cvt[ps]s2(?:dq|si))\b|\bfrint[inx]\b|\bfcvtns\b"
    assert bool(re.search(rounding, text)) == isinstance(operator, Quantize)
    assert not re.search(r"\b(?:l?l?rint|nearbyint|l?l?round)f?\b", text)
    assert not re.search(r"\bv?fn?m(?:add|sub|l[as])\w*\b", text)
