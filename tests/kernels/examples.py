"""One example of each way that kernels work, for tests that run all of them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.ops import (
    Add,
    DepthToSpace,
    Dequantize,
    MaxPool2d,
    Operator,
    Pad,
    QAdd,
    QAvgPool2d,
    QLookup,
    QMatMul,
    QMultiply,
    QResizeBilinear,
    QSoftmax,
    Quantize,
    QuantizeImage,
    SortOrder,
    UpsampleConcat,
)
from tests.kernels.convolutions import Convolution
from tests.kernels.tensors import Array, codes, floats


@dataclass(frozen=True)
class Example:
    attrs: Operator
    arguments: tuple[Array, ...]


CONVOLUTIONS = (
    Convolution(1, 8, 8, 3, 16, (3, 3)),
    Convolution(1, 8, 8, 3, 32, (1, 3), (1, 2)),
    Convolution(1, 4, 16, 2, 1),
    Convolution(2, 4, 8, 30, 8),
    Convolution(1, 2, 32, 7, 20, (2, 1)),
    Convolution(1, 8, 8, 6, 3, (3, 3), (1, 1), (2, 2), groups=4),
    Convolution(1, 8, 8, 1, 1, (3, 3), groups=24),
    Convolution(1, 8, 16, 1, 1, (5, 5), groups=40),
    Convolution(1, 8, 8, 1, 1, (3, 3), (2, 2), groups=72),
    Convolution(1, 6, 32, 1, 1, (3, 3), groups=3),
    Convolution(1, 9, 9, 64, 20, (3, 3)),
    Convolution(1, 8, 16, 23, 16, (3, 3)),
    Convolution(1, 64, 29, 9, 16, (3, 7), (1, 2)),
    Convolution(1, 64, 30, 9, 16, (3, 7), (1, 2)),
)
"""Inputs are multiples of 64 bytes, see `memory_bound_examples`; rows, channels and segments are odd."""


def examples() -> Mapping[str, Example]:
    """Return all by name: those of convolutions and those of memory-bound kernels."""
    return {**convolution_examples(), **memory_bound_examples()}


def convolution_examples() -> Mapping[str, Example]:
    """Return those of convolutions by name."""
    cases = ((convolution, convolution.integer(seed=0)) for convolution in CONVOLUTIONS)
    return {str(convolution): Example(attrs, tuple(arguments)) for convolution, (attrs, arguments) in cases}


def memory_bound_examples() -> Mapping[str, Example]:
    """Return those of memory-bound kernels by name.

    Lengths aren't multiples of the vectors' wherever possible.

    But nearly all tensors have multiples of 64 bytes, so that they can end at a page's end and still begin at a
    multiple of 64, as TVM wants it.
    """
    random = np.random.default_rng(0)
    image, pixel = codes(random, 2, 8, 8, 21), codes(random, 64, 1, 1, 21)
    hundredth = np.full((1, 1), 0.01, "float32")
    special = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, -0.0, 0.5, 1.5, 2.5, -0.5, 2.0**31], "float32")
    total = QAdd(output_zero_point=9, a_zero_point=3, b_zero_point=128, a_multiplier=700, b_multiplier=-513, shift=10)
    scores = QMatMul(9, 3, 250, transpose_b=True, a_zero_point=131, b_zero_point=120, multiplier=0.002)
    exponentials = np.rint(np.exp(-0.05 * np.arange(256)) * 2**16).astype("int32")
    window = {"pool_size": (3, 3), "padding": (1, 1, 1, 1)}
    mean = QAvgPool2d(output_zero_point=9, input_zero_point=77, **window)
    return {
        "pad rows": Example(Pad((4, 0, 4, 0), 9.0), (image,)),
        "pad columns": Example(Pad((0, 3, 0, 5), 9.0), (image,)),
        "pad float": Example(Pad((0, 3, 0, 5), -1.5), (floats(random, 1, 8, 8, 21),)),
        "max pool": Example(MaxPool2d(**window), (image,)),
        "max pool, dilated": Example(MaxPool2d((3, 2), (1, 1), (2, 0, 2, 1), (2, 1)), (image,)),
        "max pool, float": Example(MaxPool2d(**window), (floats(random, 1, 8, 8, 21),)),
        "depth to space": Example(DepthToSpace((2, 1)), (codes(random, 4, 4, 4, 48),)),
        "depth to space, short": Example(DepthToSpace((2, 2), 1, (0, 0, 2, 0)), (floats(random, 4, 4, 4, 8),)),
        "depth to space, groups": Example(DepthToSpace((2, 2), 3), (codes(random, 4, 4, 4, 132),)),
        "mean": Example(mean, (image, np.full((8, 8), 1 / 9, "float32"))),
        "global mean": Example(QAvgPool2d(pool_size=(8, 8)), (codes(random, 64, 8, 8, 21), hundredth)),
        "add": Example(Add(0.0, 6.0), (floats(random, 16, 5, 21), floats(random, 16, 1, 21))),
        "quantized add": Example(total, (codes(random, 64, 3, 2, 21), pixel)),
        "multiply": Example(QMultiply(a_zero_point=128, multiplier=0.5), (codes(random, 64, 3, 2, 21), pixel)),
        "multiply, same shape": Example(QMultiply(multiplier=0.01), (image, codes(random, *image.shape))),
        "matrix product": Example(scores, (codes(random, 2, 32, 15), codes(random, 2, 32, 15))),
        "matrix product, wide": Example(
            QMatMul(a_zero_point=9, multiplier=0.001), (codes(random, 64, 19), codes(random, 19, 64))
        ),
        "matrix product, one column": Example(
            QMatMul(b_zero_point=9, multiplier=0.001), (codes(random, 64, 64, 3), codes(random, 64, 3, 1))
        ),
        "softmax": Example(QSoftmax(), (codes(random, 64, 21), exponentials)),
        "softmax, short": Example(QSoftmax(), (codes(random, 64, 3), exponentials)),
        "concatenation": Example(
            UpsampleConcat((2, 1, 1, 2), (4, 3, 4, 5), 9.0), (codes(random, 2, 4, 8, 20), codes(random, 2, 8, 4, 44))
        ),
        "resize": Example(QResizeBilinear((16, 8), (-0.25, 0.0), (0.5, 1.0)), (image,)),
        "resize, short": Example(QResizeBilinear((5, 64), (0.0, -0.4), (0.3, 0.2)), (codes(random, 1, 8, 8, 3),)),
        "lookup": Example(QLookup(), (np.resize(np.arange(256, dtype="uint8"), 1344), codes(random, 256))),
        "lookup, short": Example(QLookup(), (codes(random, 192), codes(random, 256))),
        "quantize": Example(Quantize(2.0, 3), (floats(random, 1360),)),
        "quantize infinities and NaN": Example(Quantize(1.0, 128), (np.resize(special, 192),)),
        "quantize, short": Example(Quantize(1.0, 0), (np.resize(special, 64),)),
        "quantize image": Example(QuantizeImage(2.0, 3, (0, 1, 0, 3), 7), (floats(random, 2, 3, 16, 16),)),
        "quantize image, unfolded": Example(
            QuantizeImage(2.0, 3, (1, 1, 0, 3), 7, 3, 2), (floats(random, 2, 4, 16, 16),)
        ),
        "sort order": Example(SortOrder(3, descending=True), (np.rint(floats(random, 64, 21)),)),
        "dequantize": Example(Dequantize(0.017, 3), (np.resize(np.arange(256, dtype="uint8"), 1360),)),
    }
