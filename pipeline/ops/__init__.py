"""The operators that programs are made of: their attributes, arguments and output types, one module for each family.

Two families. `nn.*` are float32 operators with bias and activation fused in, as the importer produces them. `qnn.*`
are their integer counterparts, as `realize` produces them. Everything else in a program is a stock Relax operator.
Activations are NHWC; convolution weights are OHWI.

One frozen dataclass describes one operator, without any compiler in it: Relax registration
(`ir.bridge`), the NumPy reference (`reference`) and the kernels (`kernels`) all read this description. The
class docstring *is* the operator's specification; the quantized ones are exact to the bit. In them `rint` rounds half
to even, products and roundings are float32, and no multiply may be contracted with a following add.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.ir import bridge
from pipeline.ir.operator import Operator, Requantized
from pipeline.ops.conv import Conv2d, Conv2dAdd, Conv2dTranspose, QConv2d, QConv2dAdd, QConv2dLookup, QConv2dTranspose
from pipeline.ops.elementwise import Add, Multiply, QAdd, QLookup, QMultiply, Unary
from pipeline.ops.matmul import Dense, MatMul, QDense, QMatMul
from pipeline.ops.movement import DepthToSpace, Pad, SortOrder, Stack
from pipeline.ops.normalization import LayerNorm, QSoftmax, Softmax
from pipeline.ops.pooling import AvgPool2d, MaxPool2d, QAvgPool2d
from pipeline.ops.quantize import Dequantize, Quantize, QuantizeImage
from pipeline.ops.resize import QResizeBilinear, ResizeBilinear, UpsampleConcat

OPERATORS: Mapping[str, type[Operator]] = {
    cls.name: cls
    for cls in (
        Conv2d,
        Conv2dAdd,
        Conv2dTranspose,
        DepthToSpace,
        UpsampleConcat,
        Dense,
        Add,
        Multiply,
        Pad,
        AvgPool2d,
        MaxPool2d,
        ResizeBilinear,
        Stack,
        Unary,
        Softmax,
        LayerNorm,
        MatMul,
        SortOrder,
        QConv2d,
        QConv2dTranspose,
        QConv2dAdd,
        QConv2dLookup,
        QDense,
        QMatMul,
        QSoftmax,
        QAdd,
        QMultiply,
        QAvgPool2d,
        QResizeBilinear,
        QLookup,
        Quantize,
        QuantizeImage,
        Dequantize,
    )
}
"""Every operator of ours, by name."""

bridge.register(OPERATORS)

__all__ = [
    "OPERATORS",
    "Add",
    "AvgPool2d",
    "Conv2d",
    "Conv2dAdd",
    "Conv2dTranspose",
    "Dense",
    "DepthToSpace",
    "Dequantize",
    "LayerNorm",
    "MatMul",
    "MaxPool2d",
    "Multiply",
    "Operator",
    "Pad",
    "QAdd",
    "QAvgPool2d",
    "QConv2d",
    "QConv2dAdd",
    "QConv2dLookup",
    "QConv2dTranspose",
    "QDense",
    "QLookup",
    "QMatMul",
    "QMultiply",
    "QResizeBilinear",
    "QSoftmax",
    "Quantize",
    "QuantizeImage",
    "Requantized",
    "ResizeBilinear",
    "Softmax",
    "SortOrder",
    "Stack",
    "Unary",
    "UpsampleConcat",
]
