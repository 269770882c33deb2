"""Means over windows and over whole images; maxima are in `movement`, as they only move values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding, make_constant
from pipeline.ir.operator import Array
from pipeline.ops.pooling import counted_pixels
from pipeline.quantization.rules.linear import requantization
from pipeline.quantization.rules.rule import Context, NotQuantizable, quantization_rule


def _over_image(binding: Binding) -> str | None:
    axes, rank = binding.value.attrs["axis"], len(tensor_type(binding.value.args[0]).shape)
    if rank != 4 or axes is None or sorted(int(a) % rank for a in axes) != [1, 2]:
        return "it isn't a mean over the height and width of an image"
    return None


def _plain_windows(binding: Binding) -> str | None:
    attrs = binding.value.attrs
    dilated = any(int(d) != 1 for d in attrs["dilation"])
    return "it is dilated or not NHWC" if dilated or attrs["layout"] != "NHWC" else None


@quantization_rule("relax.mean", kind="avg_pool2d", check=_over_image, inputs_of_16_bits=1, output_of_16_bits=True)
def mean(binding: Binding, context: Context) -> relax.Expr:
    """`relax.mean` over height and width -> `qnn.avg_pool2d` with a window of the whole image."""
    x = binding.value.args[0]
    _, height, width, channels = tensor_type(x).shape
    call = _avg_pool(x, (height, width), (1, 1), (0, 0, 0, 0), np.full((1, 1), height * width), context)
    if bool(binding.value.attrs["keepdims"]):
        return call
    pooled = context.emit(call, f"{binding.var.name}.pooled")
    return relax.op.reshape(pooled, [tensor_type(x).shape[0], channels])


@quantization_rule(
    "relax.nn.avg_pool2d", kind="avg_pool2d", check=_plain_windows, inputs_of_16_bits=1, output_of_16_bits=True
)
def avg_pool2d(binding: Binding, context: Context) -> relax.Expr:
    """`relax.nn.avg_pool2d` -> `qnn.avg_pool2d`."""
    x, attrs = binding.value.args[0], binding.value.attrs
    _, out_h, out_w, _ = tensor_type(binding.var).shape
    pool_size, strides, padding = (tuple(int(v) for v in attrs[name]) for name in ("pool_size", "strides", "padding"))
    include = bool(attrs["count_include_pad"])
    counted = counted_pixels(tensor_type(x).shape[1:3], (out_h, out_w), pool_size, strides, padding, include)
    return _avg_pool(x, pool_size, strides, padding, counted, context)


def _avg_pool(x: relax.Var, pool_size: Any, strides: Any, padding: Any, counted: Array, context: Context) -> relax.Expr:
    output, source = context.quantized_output(), context.parameters(x)
    multiplier = (source.scale / (output.scale * counted.astype("float64"))).astype("float32")
    largest = source.furthest * math.prod(pool_size)
    if largest >= 2**31:
        raise NotQuantizable("its sums could exceed 32 bits")
    fields = requantization(context, ops.AvgPool2d(), largest * source.scale / counted)
    quantized = ops.QAvgPool2d(
        pool_size=pool_size,
        strides=strides,
        padding=padding,
        input_zero_point=source.zero_point,
        **fields,
    )
    return make_call(quantized, context.quantized(x), make_constant(multiplier))
