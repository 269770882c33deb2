"""One example of each way that kernels work, for tests that run all of them elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.isa import Capability, InstructionSet
from pipeline.ops import (
    Add,
    AvgPool2d,
    Conv2d,
    Conv2dAdd,
    Dense,
    DepthToSpace,
    Dequantize,
    JoinSums,
    LayerNorm,
    MatMul,
    MaxPool2d,
    Multiply,
    Operator,
    Pad,
    PRelu,
    QAdd,
    QAvgPool2d,
    QConv2dAdd,
    QConv2dHardSwish,
    QConv2dLookup,
    QDense,
    QHardSwish,
    QInterpolate,
    QLookup,
    QMatMul,
    QMultiply,
    QPRelu,
    QResizeBilinear,
    QSoftmax,
    Quantize,
    QuantizeImage,
    ResizeBilinear,
    Softmax,
    SortOrder,
    SplitBytes,
    Stack,
    Unary,
    UpsampleConcat,
)
from pipeline.ops.formula import X, apply
from tests.kernels.convolutions import Convolution, integer_arguments
from tests.kernels.tensors import Array, floats, quantized_values, wide_values


@dataclass(frozen=True)
class Example:
    """An operator on some arguments.

    Attributes:
        operator: which operator.
        arguments: all of them.
        activations: which of them vary at run time.
        rtol: by what part of a value a kernel may differ from the reference.
    """

    operator: Operator
    arguments: tuple[Array, ...]
    activations: tuple[int, ...] = (0,)
    rtol: float = 0.0


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
    """Return all by name."""
    return {**convolution_examples(), **product_examples(), **memory_bound_examples()}


def examples_for(isa: InstructionSet) -> Mapping[str, Example]:
    """Return those that programs for an instruction set may hold; tables are only fused where they are quick."""
    fused = {name for name, example in examples().items() if isinstance(example.operator, QConv2dLookup)}
    return {n: e for n, e in examples().items() if isa.has(Capability.FUSED_LOOKUP) or n not in fused}


def convolution_examples() -> Mapping[str, Example]:
    """Return those of convolutions by name."""
    cases = ((convolution, convolution.integer(seed=0)) for convolution in CONVOLUTIONS)
    return {str(convolution): Example(operator, tuple(arguments)) for convolution, (operator, arguments) in cases}


def product_examples() -> Mapping[str, Example]:
    """Return those of float products, whole numbers that float32 sums exactly, and of what is fused into products."""
    random = np.random.default_rng(0)

    def whole(*shape: int) -> Array:
        return random.integers(-8, 9, shape).astype("float32")

    layer = Convolution(2, 4, 8, 15, 20, (3, 3))
    convolution, arguments = layer.integer(seed=0)
    total = QAdd(9, a_zero_point=convolution.output_zero_point, a_multiplier=700, b_multiplier=-513, shift=10)
    convolved = convolution.evaluate(*arguments)
    floats = (whole(*layer.x_shape), whole(*layer.weight_shape), whole(20))
    return {
        "float convolution": Example(Conv2d(clip_min=0.0), floats),
        "float convolution and sum": Example(
            Conv2dAdd.of(Conv2d(clip_min=0.0, clip_max=50.0), Add(-9.0)), (*floats, whole(*convolved.shape)), (0, 3)
        ),
        "convolution and sum": Example(
            QConv2dAdd.of(convolution, total), (*arguments, quantized_values(random, *convolved.shape)), (0, 4)
        ),
        "convolution and lookup": Example(
            QConv2dLookup(**dataclasses.asdict(convolution)), (*arguments, quantized_values(random, 256))
        ),
        "convolution and hard swish": Example(
            QConv2dHardSwish.of(
                dataclasses.replace(convolution, output_dtype="float32"), QHardSwish(9, shift=-2.5, fraction_bits=8)
            ),
            (*arguments, np.linspace(-9, 9, 20, dtype="float32")),
        ),
        "dense": Example(QDense(9, input_zero_point=77), tuple(integer_arguments(random, (3, 64), (21, 64)))),
        "float dense": Example(Dense(), (whole(3, 16), whole(21, 16), whole(21))),
        "float matrix product": Example(MatMul(transpose_b=True), (whole(2, 8, 30), whole(2, 8, 30)), (0, 1)),
    }


def memory_bound_examples() -> Mapping[str, Example]:
    """Return those of memory-bound kernels by name.

    Lengths aren't multiples of the vectors' wherever possible.

    But nearly all tensors have multiples of 64 bytes, so that they can end at a page's end and still begin at a
    multiple of 64, as TVM wants it.
    """
    random = np.random.default_rng(0)
    image, pixel = quantized_values(random, 2, 8, 8, 21), quantized_values(random, 64, 1, 1, 21)
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
        "pad signed": Example(Pad((0, 3, 0, 5), -9.0), (image.view("int8"),)),
        "pad float": Example(Pad((0, 3, 0, 5), -1.5), (floats(random, 1, 8, 8, 21),)),
        "max pool": Example(MaxPool2d(**window), (image,)),
        "max pool, signed": Example(MaxPool2d(**window), (image.view("int8"),)),
        "max pool, dilated": Example(MaxPool2d((3, 2), (1, 1), (2, 0, 2, 1), (2, 1)), (image,)),
        "max pool, float": Example(MaxPool2d(**window), (floats(random, 1, 8, 8, 21),)),
        "depth to space": Example(DepthToSpace((2, 1)), (quantized_values(random, 4, 4, 4, 48),)),
        "depth to space, short": Example(DepthToSpace((2, 2), 1, (0, 0, 2, 0)), (floats(random, 4, 4, 4, 8),)),
        "depth to space, groups": Example(DepthToSpace((2, 2), 3), (quantized_values(random, 4, 4, 4, 132),)),
        "mean": Example(mean, (image, np.full((8, 8), 1 / 9, "float32"))),
        "global mean": Example(QAvgPool2d(pool_size=(8, 8)), (quantized_values(random, 64, 8, 8, 21), hundredth)),
        "float mean": Example(
            AvgPool2d(**window), (np.rint(floats(random, 2, 8, 8, 21)), np.full((8, 8), 1 / 9, "float32"))
        ),
        "float multiply": Example(Multiply(), (floats(random, 16, 5, 21), floats(random, 16, 1, 21)), (0, 1)),
        "stack": Example(Stack(3), tuple(quantized_values(random, 1, 64, 3) for _ in range(3)), (0, 1, 2)),
        "float resize": Example(
            ResizeBilinear((16, 8), (-0.25, 0.0), (0.5, 1.0)), (np.rint(floats(random, 2, 8, 8, 21)),)
        ),
        "function": Example(Unary.of(apply("minimum", apply("maximum", X, 0.0), 6.0)), (floats(random, 1360),)),
        "float softmax": Example(Softmax(), (floats(random, 64, 21) / 100,), rtol=1e-5),
        "layer norm": Example(
            LayerNorm(), (floats(random, 64, 21), np.full(21, 0.5, "float32"), np.full(21, 9.0, "float32")), rtol=1e-4
        ),
        "add": Example(Add(0.0, 6.0), (floats(random, 16, 5, 21), floats(random, 16, 1, 21)), (0, 1)),
        "quantized add": Example(total, (quantized_values(random, 64, 3, 2, 21), pixel), (0, 1)),
        "prelu": Example(PRelu(), (floats(random, 16, 5, 21), np.linspace(-1, 1, 21, dtype="float32")), rtol=0),
        "quantized prelu": Example(
            QPRelu(9, input_zero_point=77, multiplier=0.7),
            (quantized_values(random, 64, 3, 21), np.linspace(-1, 1, 21, dtype="float32")),
        ),
        "hard swish of channels": Example(
            QHardSwish(9, shift=-2.5, fraction_bits=8, largest=800.0),
            (floats(random, 16, 3, 21), np.linspace(-9, 90, 21, dtype="float32")),
        ),
        "multiply": Example(
            QMultiply(a_zero_point=128, multiplier=0.5), (quantized_values(random, 64, 3, 2, 21), pixel), (0, 1)
        ),
        "multiply, same shape": Example(
            QMultiply(multiplier=0.01), (image, quantized_values(random, *image.shape)), (0, 1)
        ),
        "two bytes": Example(SplitBytes(), (wide_values(random, 64, 3, 21),)),
        "joined sums": Example(
            JoinSums(9), (np.rint(floats(random, 32, 2, 21)), *(np.linspace(-1, 1, 21, dtype="float32"),) * 2)
        ),
        "interpolation": Example(
            QInterpolate(9), (wide_values(random, 32, 3, 21), random.integers(-(2**14), 2**14, 257).astype("int32"))
        ),
        "add of 16 bits": Example(
            QAdd(
                0, -300, 20_000, output_dtype="int16", b_zero_point=3, a_multiplier=9000, b_multiplier=1 << 20, shift=14
            ),
            (wide_values(random, 64, 3, 2, 21), pixel),
            (0, 1),
        ),
        "matrix product": Example(
            scores, (quantized_values(random, 2, 32, 15), quantized_values(random, 2, 32, 15)), (0, 1)
        ),
        "matrix product, wide": Example(
            QMatMul(a_zero_point=9, multiplier=0.001),
            (quantized_values(random, 64, 19), quantized_values(random, 19, 64)),
            (0, 1),
        ),
        "matrix product, one column": Example(
            QMatMul(b_zero_point=9, multiplier=0.001),
            (quantized_values(random, 64, 64, 3), quantized_values(random, 64, 3, 1)),
            (0, 1),
        ),
        "softmax": Example(QSoftmax(), (quantized_values(random, 64, 21), exponentials)),
        "softmax, short": Example(QSoftmax(), (quantized_values(random, 64, 3), exponentials)),
        "concatenation": Example(
            UpsampleConcat((2, 1, 1, 2), (4, 3, 4, 5), 9.0),
            (quantized_values(random, 2, 4, 8, 20), quantized_values(random, 2, 8, 4, 44)),
            (0, 1),
        ),
        "resize": Example(QResizeBilinear((16, 8), (-0.25, 0.0), (0.5, 1.0)), (image,)),
        "resize, short": Example(
            QResizeBilinear((5, 64), (0.0, -0.4), (0.3, 0.2)), (quantized_values(random, 1, 8, 8, 3),)
        ),
        "lookup": Example(QLookup(), (np.resize(np.arange(256, dtype="uint8"), 1344), quantized_values(random, 256))),
        "lookup, short": Example(QLookup(), (quantized_values(random, 192), quantized_values(random, 256))),
        "quantize": Example(Quantize(2.0, 3), (floats(random, 1360),)),
        "quantize infinities and NaN": Example(Quantize(1.0, 128), (np.resize(special, 192),)),
        "quantize, short": Example(Quantize(1.0, 0), (np.resize(special, 64),)),
        "quantize image": Example(QuantizeImage(2.0, 3, (0, 1, 0, 3), 7), (floats(random, 2, 3, 16, 16),)),
        "quantize image, unfolded": Example(
            QuantizeImage(2.0, 3, (1, 1, 0, 3), 7, 3, 2), (floats(random, 2, 4, 16, 16),)
        ),
        "quantize image, signed": Example(
            QuantizeImage(2.0, 3, (1, 1, 0, 3), 7, 3, 2, output_dtype="int8"), (floats(random, 2, 4, 16, 16),)
        ),
        "sort order": Example(SortOrder(3, descending=True), (np.rint(floats(random, 64, 21)),)),
        "dequantize": Example(Dequantize(0.017, 3), (np.resize(np.arange(256, dtype="uint8"), 1360),)),
    }
