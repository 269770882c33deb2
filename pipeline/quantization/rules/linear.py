"""What operators with constant weights have in common: quantized weights, multipliers, and the proof that sums fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import Binding, constant, make_constant
from pipeline.ir.operator import Array
from pipeline.quantization.rules.rule import Context, NotQuantizable
from pipeline.quantization.weights import QuantizedWeights, accumulator_bounds, quantize_weights, short_multipliers


def quantized_product(
    binding: Binding, operator: ops.Linear, context: Context, make: Callable[..., ops.Operator]
) -> relax.Expr:
    """Return the integer form of an operator with constant weights.

    Args:
        binding: the operator, on (x, weight, bias).
        operator: the same.
        context: see `Context`.
        make: returns the integer operator, on (x, weight, bias, multiplier), given the fields of `ops.Accumulated` and
            `input_zero_point`.

    Raises:
        NotQuantizable: a sum, or a result, could exceed 32 bits.
    """
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        raise NotQuantizable("its weights aren't constant")
    x = context.parameters(binding.value.args[0])
    x_scales = x.scales_for(len(bias))
    weights = quantize_weights(weight, bias, x_scales, context.weights)
    bound, bound_on_the_way = accumulator_bounds(weights, x.zero_point, x.furthest)
    if (bound_on_the_way >= 2**31).any():
        if x.dtype == "int16":
            return _product_of_bytes(binding, operator, context, make, weights)
        raise NotQuantizable("its accumulator could exceed 32 bits")
    multiplier = x_scales * weights.scale
    fields = requantization(context, operator, bound * multiplier)
    if context.output is not None:
        multiplier = multiplier / context.output.scales_for(len(bias))
    arrays = (weights.weight, weights.bias, short_multipliers(multiplier, fields["output_dtype"]))
    quantized = make(input_zero_point=x.zero_point, **fields)
    return make_call(quantized, context.quantized(binding.value.args[0]), *(make_constant(a) for a in arrays))


def _product_of_bytes(
    binding: Binding,
    operator: ops.Linear,
    context: Context,
    make: Callable[..., ops.Operator],
    weights: QuantizedWeights,
) -> relax.Expr:
    """Return the products of both bytes of x, of 16 bits, joined; the bias is added to the joined sums, in float32."""
    x = binding.value.args[0]
    zeros, scale = np.zeros_like(weights.bias), context.parameters(x).scale * weights.scale
    bound, bound_on_the_way = accumulator_bounds(replace(weights, bias=zeros), ops.BYTE_ZERO_POINT)
    if (bound_on_the_way >= 2**31).any():
        raise NotQuantizable("its accumulator could exceed 32 bits")
    fields = requantization(context, operator, (257 * bound + np.abs(weights.bias.astype("float64"))) * scale)
    products = make(input_zero_point=ops.BYTE_ZERO_POINT, output_dtype="float32")
    arrays = (weights.weight, zeros, np.ones(len(zeros), "float32"))
    sums = make_call(products, context.both_bytes(x), *(make_constant(a) for a in arrays))
    return joined_sums(context.emit(sums, f"{context.name}.sums"), weights.bias, scale, context, fields)


def joined_sums(sums: relax.Var, bias: Array, scale: Array, context: Context, fields: dict[str, Any]) -> relax.Expr:
    """Return the sums of both bytes, put together.

    Args:
        sums: [2*N,...,O] float32, in units of `scale`.
        bias: [O], in the same units.
        scale: [O] float64.
        context: says what the result is to be.
        fields: of `ops.Requantized`, see `requantization`.
    """
    multiplier = scale if context.output is None else scale / context.output.scales_for(len(scale))
    constants = (make_constant(a.astype("float32")) for a in (bias, multiplier))
    return make_call(ops.JoinSums(**fields), sums, *constants)


def requantization(context: Context, operator: ops.Operator, largest: Array | float) -> dict[str, Any]:
    """Return the fields of `ops.Requantized` for an operator's result.

    Args:
        context: says what the result is to be.
        operator: the float operator; if it limits its result, so do the fields.
        largest: the largest magnitude that a result can have: a number, or one for each channel.

    Raises:
        NotQuantizable: a result could exceed 32 bits.
    """
    output = context.output
    if output is None:
        return {"output_dtype": "float32"}
    if not np.all(np.asarray(largest) / output.step < 2**30):
        raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    low, high = output.limits
    if isinstance(operator, ops.Clipped):
        low, high = output.quantized_range(operator.clip_min, operator.clip_max)
    return {
        "output_zero_point": output.zero_point,
        "output_min": low,
        "output_max": high,
        "output_dtype": output.dtype,
    }


OUTPUT_SCALE_TOO_SMALL = "its result could exceed 32 bits: the output's scale is too small"
"""The reason for float if a result could be 2**30 or more in units of the output's scale."""
