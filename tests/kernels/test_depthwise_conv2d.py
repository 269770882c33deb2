"""Depthwise `qnn.conv2d` and `nn.conv2d`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.kernels.conv2d
import pipeline.kernels.depthwise_conv2d  # noqa: F401
from pipeline.kernels import registry
from pipeline.kernels.isa import instruction_set
from pipeline.reference.operators import evaluate
from tests.kernels.convolutions import Convolution, convolutions
from tests.kernels.harness import make_operation, run_kernel

LAYERS = {
    "mobilenet 3x3": Convolution(1, 16, 16, 1, 1, (3, 3), groups=96),
    "mobilenet 3x3, stride 2": Convolution(1, 29, 29, 1, 1, (3, 3), (2, 2), groups=144),
    "mobilenet v3 5x5": Convolution(1, 18, 18, 1, 1, (5, 5), groups=40),
    "mobilenet v3 5x5, stride 2": Convolution(1, 31, 31, 1, 1, (5, 5), (2, 2), groups=72),
    "convnext 7x7": Convolution(1, 20, 20, 1, 1, (7, 7), groups=96),
    "a wide row": Convolution(1, 1, 60, 1, 1, (1, 31), groups=16),
}


@given(
    convolution=convolutions(depthwise=True),
    seed=st.integers(0, 2**32),
    output_dtype=st.sampled_from(["uint8", "float32"]),
)
def test_integer_depthwise_convolution_is_bit_exact(
    isa_name: str, convolution: Convolution, seed: int, output_dtype: str
) -> None:
    attrs, arguments = convolution.integer(seed, output_dtype)
    result = run_kernel(make_operation(attrs, *arguments), isa_name, arguments[0])
    np.testing.assert_array_equal(result, evaluate(attrs, *arguments))


@given(convolution=convolutions(depthwise=True), seed=st.integers(0, 2**32))
def test_float_depthwise_convolution_is_close(isa_name: str, convolution: Convolution, seed: int) -> None:
    attrs, arguments = convolution.floating(seed)
    result = run_kernel(make_operation(attrs, *arguments), isa_name, arguments[0])
    np.testing.assert_allclose(result, evaluate(attrs, *arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_layers_of_real_networks_are_bit_exact(isa_name: str, layer: Convolution) -> None:
    attrs, arguments = layer.integer(seed=1)
    operation = make_operation(attrs, *arguments)
    assert "depthwise" in registry.select(operation, instruction_set(isa_name)).name
    np.testing.assert_array_equal(run_kernel(operation, isa_name, arguments[0]), evaluate(attrs, *arguments))
