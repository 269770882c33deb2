"""What operators with constant weights have in common: quantized weights, multipliers, and the proof that sums fit."""

from __future__ import annotations

from typing import Any

from tvm import relax

from pipeline import ops
from pipeline.ir.dataflow import Binding, constant, make_constant
from pipeline.quantization.rules.rule import Context, NotQuantizable
from pipeline.quantization.weights import accumulator_bounds, quantize_weights, short_multipliers


def quantized_product(
    binding: Binding, operator: ops.Linear, context: Context
) -> tuple[list[relax.Expr], dict[str, Any]]:
    """Return the arguments and attributes of the integer form of an operator with constant weights.

    Returns:
        (x, weights, bias, multipliers), and attributes of `ops.Accumulated`, with the input's zero point.

    Raises:
        NotQuantizable: a sum, or a result, could exceed 32 bits.
    """
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        raise NotQuantizable("its weights aren't constant")
    x = context.parameters(binding.value.args[0])
    weights = quantize_weights(weight, bias, x.scale, context.weights)
    bound, bound_on_the_way = accumulator_bounds(weights, x.zero_point)
    if (bound_on_the_way >= 2**31).any():
        raise NotQuantizable("its accumulator could exceed 32 bits")
    common: dict[str, Any] = {"input_zero_point": x.zero_point}
    if context.output is None:
        multiplier = x.scale * weights.scale
        common["output_dtype"] = "float32"
    else:
        multiplier = x.scale * weights.scale / context.output.scale
        low, high = context.output.quantized_range(operator.clip_min, operator.clip_max)
        common |= {"output_zero_point": context.output.zero_point, "output_min": low, "output_max": high}
        if not (bound * multiplier < 2**30).all():
            raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    arrays = (weights.weight, weights.bias, short_multipliers(multiplier))
    return [context.quantized(binding.value.args[0]), *(make_constant(a) for a in arrays)], common


OUTPUT_SCALE_TOO_SMALL = "its result could exceed 32 bits: the output's scale is too small"
"""The reason for float if a result could be 2**30 or more in units of the output's scale."""
