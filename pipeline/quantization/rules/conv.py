"""Convolutions."""

from __future__ import annotations

import functools

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.quantization.rules.linear import quantized_product
from pipeline.quantization.rules.rule import Context, constant_weights, description, quantization_rule


def _is_depthwise(binding: Binding) -> bool:
    groups = description(binding, ops.Conv2d).groups
    return groups > 1 and groups == tensor_type(binding.value.args[0]).shape[3]


@quantization_rule(
    ops.Conv2d,
    kind="conv2d",
    subtypes={"depthwise_conv2d": _is_depthwise},
    check=constant_weights,
    inputs_of_16_bits=1,
    output_of_16_bits=True,
)
def conv2d(binding: Binding, context: Context) -> relax.Expr:
    """`nn.conv2d` -> `qnn.conv2d`."""
    operator = description(binding, ops.Conv2d)
    make = functools.partial(
        ops.QConv2d,
        strides=operator.strides,
        padding=operator.padding,
        dilation=operator.dilation,
        groups=operator.groups,
    )
    return quantized_product(binding, operator, context, make)


@quantization_rule(
    ops.Conv2dTranspose, kind="conv2d_transpose", check=constant_weights, inputs_of_16_bits=1, output_of_16_bits=True
)
def conv2d_transpose(binding: Binding, context: Context) -> relax.Expr:
    """`nn.conv2d_transpose` -> `qnn.conv2d_transpose`."""
    operator = description(binding, ops.Conv2dTranspose)
    make = functools.partial(
        ops.QConv2dTranspose,
        strides=operator.strides,
        padding=operator.padding,
        output_padding=operator.output_padding,
        dilation=operator.dilation,
        groups=operator.groups,
    )
    return quantized_product(binding, operator, context, make)
