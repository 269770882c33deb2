"""What integer products begin and end with: the zero point is in the bias, and float32's bits count like integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.lib.requantize import FLOAT_OFFSET
from pipeline.ops import Add, QDense
from pipeline.quantization.weights import short_multipliers
from tests.kernels.harness import make_operation
from tests.kernels.tensors import SEEDS

DEPTH, CHANNELS = 40, 16


def constants(seed: int, zero_point: int, *, as_floats: bool) -> tuple[IntegerConstants, np.ndarray, np.ndarray]:
    """Return a random dense layer's constants, its input, and its sums in 64 bits."""
    random = np.random.default_rng(seed)
    x = random.choice([0, 1, 127, 254, 255, zero_point], (8, DEPTH)).astype("uint8")
    weight = random.integers(-127, 128, (CHANNELS, DEPTH)).astype("int8")
    bias = random.integers(-(2**20), 2**20, CHANNELS).astype("int32")
    multiplier = short_multipliers(random.random(CHANNELS) * 1e-3)
    operation = make_operation(QDense(input_zero_point=zero_point), x, weight, bias, multiplier)
    sums = (x.astype("int64") - zero_point) @ weight.astype("int64").T + bias
    return IntegerConstants.of(operation, as_floats=as_floats), x, sums


@given(seed=SEEDS, zero_point=st.integers(0, 255))
def test_accumulators_that_begin_with_the_folded_bias_end_with_the_sums(seed: int, zero_point: int) -> None:
    found, x, sums = constants(seed, zero_point, as_floats=False)
    assert not found.floats
    np.testing.assert_array_equal(x.astype("int64") @ found.weight.astype("int64").T + found.start, sums)


@given(seed=SEEDS, zero_point=st.integers(0, 255))
def test_accumulators_that_are_bits_of_float32_scale_to_the_same_floats(seed: int, zero_point: int) -> None:
    found, x, sums = constants(seed, zero_point, as_floats=True)
    assert found.floats, "sums are below 2**22, and multipliers are short"
    accumulators = x.astype("int64") @ found.weight.astype("int64").T + found.start
    offset = found.multiplier * np.float32(-FLOAT_OFFSET)
    # float64 has product and sum of a fused multiply-add exactly.
    product = accumulators.astype("int32").view("float32") * found.multiplier.astype("float64")
    np.testing.assert_array_equal((product + offset).astype("float32"), sums.astype("float32") * found.multiplier)


def test_long_multipliers_and_large_sums_are_no_floats() -> None:
    weight, bias = np.ones((1, DEPTH), "int8"), np.zeros(1, "int32")
    for b, multiplier in ((bias, np.float32(1 / 3)), (bias + 2**22, np.float32(0.5))):
        operation = make_operation(QDense(), np.zeros((1, DEPTH), "uint8"), weight, b, multiplier.reshape(1))
        assert not IntegerConstants.of(operation, as_floats=True).floats


def test_other_operators_have_none() -> None:
    operation = make_operation(Add(), *np.zeros((2, 1), "float32"), activations=2)
    with pytest.raises(TypeError, match=r"Expected qnn.conv2d or qnn.dense, got Add"):
        IntegerConstants.of(operation, as_floats=False)
