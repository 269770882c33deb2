"""Sums, products, and functions of one value."""

from __future__ import annotations

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import Binding, constant, make_constant
from pipeline.ir.operator import Array
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.rules.linear import OUTPUT_SCALE_TOO_SMALL
from pipeline.quantization.rules.rule import Context, NotQuantizable, description, no_constant, quantization_rule
from pipeline.quantization.weights import sum_multipliers


@quantization_rule(ops.Add, kind="add", check=no_constant)
def add(binding: Binding, context: Context) -> relax.Expr:
    """`nn.add` -> `qnn.add`."""
    operator, output = description(binding, ops.Add), context.quantized_output()
    a, b = (context.parameters(v) for v in binding.value.args)
    try:
        a_multiplier, b_multiplier, shift = sum_multipliers(a.scale, b.scale, output.scale)
    except ValueError as error:
        raise NotQuantizable(str(error)) from error
    low, high = output.quantized_range(operator.clip_min, operator.clip_max)
    quantized = ops.QAdd(
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        a_multiplier=a_multiplier,
        b_multiplier=b_multiplier,
        shift=shift,
        output_zero_point=output.zero_point,
        output_min=low,
        output_max=high,
    )
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))


@quantization_rule("relax.multiply", kind="multiply", check=no_constant)
def multiply(binding: Binding, context: Context) -> relax.Expr:
    """`relax.multiply` of two activations -> `qnn.multiply`."""
    output = context.quantized_output()
    a, b = (context.parameters(v) for v in binding.value.args)
    multiplier = float(np.float32(a.scale * b.scale / output.scale))
    if not 255 * 255 * multiplier < 2**30:
        raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    quantized = ops.QMultiply(
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        multiplier=multiplier,
        output_zero_point=output.zero_point,
    )
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))


@quantization_rule(ops.PRelu, kind="prelu")
def prelu(binding: Binding, context: Context) -> relax.Expr:
    """`nn.prelu` -> `qnn.prelu`."""
    output, (x, slope) = context.quantized_output(), binding.value.args
    slopes = constant(slope)
    if slopes is None:
        raise NotQuantizable("its slopes aren't constant")
    source = context.parameters(x)
    ratio = source.scale / output.scale
    multiplier, slopes = float(np.float32(ratio)), (slopes.astype("float64") * ratio).astype("float32")
    if not 255 * max(multiplier, np.abs(slopes).max(initial=0)) < 2**30:
        raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    quantized = ops.QPRelu(
        output_zero_point=output.zero_point, input_zero_point=source.zero_point, multiplier=multiplier
    )
    return make_call(quantized, context.quantized(x), make_constant(slopes))


@quantization_rule(ops.Unary, kind="unary")
def unary(binding: Binding, context: Context) -> relax.Expr:
    """`nn.unary` -> `qnn.lookup`: the function of each of the 256 quantized values."""
    output, x = context.quantized_output(), binding.value.args[0]
    results = description(binding, ops.Unary).formula(context.parameters(x).all_values())
    return lookup(context.quantized(x), results, output)


def lookup(x: relax.Var, values: Array, output: QuantizationParameters) -> relax.Expr:
    """Return a lookup that maps each quantized value i to the quantized value nearest to values[i].

    Args:
        x: uint8.
        values: [256] float64. An infinity, outside of a function's domain, becomes the largest or smallest quantized
            value; NaN counts as zero.
        output: the result's scale and zero point.
    """
    finite = np.nan_to_num(values, nan=0.0, posinf=1e30, neginf=-1e30)
    table = np.clip(np.rint(finite / output.scale) + output.zero_point, 0, 255).astype("uint8")
    return make_call(ops.QLookup(), x, make_constant(table))
