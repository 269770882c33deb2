"""Depthwise `qnn.conv2d` and `nn.conv2d`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels import registry
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.machine import Machine
from tests.kernels.convolutions import Convolution, convolutions, stored_signed
from tests.kernels.harness import make_operation
from tests.kernels.tensors import assert_close, assert_exact

LAYERS = {
    "mobilenet 3x3": Convolution(1, 16, 16, 1, 1, (3, 3), groups=96),
    "mobilenet 3x3, stride 2": Convolution(1, 29, 29, 1, 1, (3, 3), (2, 2), groups=144),
    "mobilenet v3 5x5": Convolution(1, 18, 18, 1, 1, (5, 5), groups=40),
    "mobilenet v3 5x5, stride 2": Convolution(1, 31, 31, 1, 1, (5, 5), (2, 2), groups=72),
    "convnext 7x7": Convolution(1, 20, 20, 1, 1, (7, 7), groups=96),
    "a wide row": Convolution(1, 1, 60, 1, 1, (1, 31), groups=16),
}

SHAPES = {
    "chunks that overlap": Convolution(1, 21, 37, 1, 1, (3, 3), groups=160),
    "chunks that overlap, 5x5, stride 2": Convolution(1, 49, 39, 1, 1, (5, 5), (2, 2), groups=164),
    "several images": Convolution(3, 12, 31, 1, 1, (3, 3), groups=144),
    "fewer rows than the kernel": Convolution(1, 6, 20, 1, 1, (5, 5), groups=100),
    "one row": Convolution(2, 5, 14, 1, 1, (5, 5), groups=64),
    "a kernel of one column": Convolution(1, 12, 9, 1, 1, (6, 1), groups=48),
    "a kernel of two columns": Convolution(1, 9, 9, 1, 1, (7, 2), groups=65),
    "a kernel of six columns": Convolution(1, 9, 15, 1, 1, (2, 6), groups=24),
    "stride down the rows only": Convolution(1, 11, 12, 1, 1, (5, 5), (2, 1), groups=40),
    "stride along the rows only": Convolution(1, 11, 13, 1, 1, (3, 3), (1, 2), groups=80),
    "stride larger than the kernel": Convolution(1, 12, 12, 1, 1, (2, 2), (3, 3), groups=96),
    "rows apart": Convolution(1, 17, 19, 1, 1, (5, 5), (1, 1), (2, 2), groups=72),
    "rows apart, stride 2": Convolution(1, 17, 19, 1, 1, (3, 3), (2, 2), (3, 2), groups=96),
    "gathered from two pixels": Convolution(1, 9, 17, 1, 1, (3, 3), (2, 2), groups=32),
    "gathered from four pixels, of which one twice": Convolution(1, 9, 15, 1, 1, (5, 5), (2, 2), groups=144),
    "gathered from two, four and eight pixels": Convolution(1, 9, 17, 1, 1, (3, 3), (2, 2), groups=56),
    "gathered by 256 bits": Convolution(1, 9, 11, 1, 1, (3, 3), (2, 3), groups=48),
    "too few pixels to gather from": Convolution(1, 9, 5, 1, 1, (3, 3), (2, 2), groups=144),
}


@given(
    convolution=convolutions(depthwise=True),
    seed=st.integers(0, 2**32),
    output_dtype=st.sampled_from(["uint8", "int8", "float32"]),
    signed=st.booleans(),
)
def test_integer_depthwise_convolution_is_bit_exact(
    isa_name: str, convolution: Convolution, seed: int, output_dtype: str, signed: bool
) -> None:
    operator, (x, *constants) = convolution.integer(seed, output_dtype)
    assert_exact(isa_name, operator, stored_signed(x, signed), *constants)


@given(convolution=convolutions(depthwise=True), seed=st.integers(0, 2**32))
def test_float_depthwise_convolution_is_close(isa_name: str, convolution: Convolution, seed: int) -> None:
    operator, arguments = convolution.floating(seed)
    assert_close(isa_name, operator, *arguments, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [LAYERS, SHAPES], ids=["of real networks", "of other shapes"])
def test_layers_are_bit_exact(isa_name: str, layers: dict[str, Convolution]) -> None:
    for number, (name, layer) in enumerate(layers.items()):
        signed = number % 2 > 0
        operator, (x, *constants) = layer.integer(1, "int8" if signed else "uint8")
        arguments = [stored_signed(x, signed), *constants]
        entry = registry.select(make_operation(operator, *arguments), Machine(instruction_set(isa_name)))
        assert "depthwise" in entry.variant, name
        assert_exact(isa_name, operator, *arguments)


@pytest.mark.parametrize("weight", [-128, -127, 127])
def test_extreme_products_are_bit_exact(isa_name: str, weight: int) -> None:
    """Sums in 16 bits would overflow, if there are any that hold more than they can."""
    operator, (x, weights, bias, multiplier) = Convolution(1, 6, 9, 1, 1, (3, 3), groups=64).integer(seed=2)
    operator = dataclasses.replace(operator, output_min=0, output_max=255, output_zero_point=128)
    for activation in (0, 255):
        arguments = np.full_like(x, activation), np.full_like(weights, weight), bias, np.full_like(multiplier, 2**-12)
        assert_exact(isa_name, operator, *arguments)
