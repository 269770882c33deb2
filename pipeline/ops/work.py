"""How much arithmetic an operator is, whatever kernel computes it."""

from __future__ import annotations

import math

from pipeline.ir.types import TensorType
from pipeline.ops import (
    Conv2d,
    Conv2dTranspose,
    Dense,
    MatMul,
    Operator,
    QConv2d,
    QConv2dTranspose,
    QDense,
    QMatMul,
)


def multiply_adds(attrs: Operator, *inputs: TensorType) -> int:
    """Return how many multiply-adds a convolution or matrix product is by its definition; 0 for other operators.

    Args:
        attrs: the operator.
        inputs: its arguments' types, in order.
    """
    if isinstance(attrs, Dense | QDense):
        x, weight = inputs[:2]
        return math.prod(x.shape[:-1]) * weight.size
    if isinstance(attrs, MatMul | QMatMul):
        return attrs.infer(*inputs[:2]).size * inputs[0].shape[-1]
    if isinstance(attrs, Conv2dTranspose | QConv2dTranspose):
        batch, height, width, _ = inputs[0].shape
        # Each weight meets each input pixel once.
        return batch * height * width * inputs[1].size
    if isinstance(attrs, Conv2d | QConv2d):
        geometry = Conv2d(attrs.strides, attrs.padding, attrs.dilation, attrs.groups)
        batch, height, width, _ = geometry.infer(*inputs[:2]).shape
        # Each weight meets each output pixel once.
        return batch * height * width * inputs[1].size
    return 0
