"""Sums, products, and functions of one value."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, constant, make_constant
from pipeline.ir.operator import Array
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.rules.linear import OUTPUT_SCALE_TOO_SMALL, requantization
from pipeline.quantization.rules.rule import ANY, Context, NotQuantizable, description, no_constant, quantization_rule
from pipeline.quantization.weights import sum_multipliers

FEWEST_PIECES, MOST_PIECES = 8, 12
"""Of a function of values of 16 bits, the powers of two of the number of its linear pieces."""

FRACTION_BITS = 8
"""Of a hard-swish's values where something is added to them, before they are rounded to steps of the result."""


@quantization_rule(ops.Add, kind="add", check=no_constant, inputs_of_16_bits=ANY, output_of_16_bits=True)
def add(binding: Binding, context: Context) -> relax.Expr:
    """`nn.add` -> `qnn.add`."""
    operator, output = description(binding, ops.Add), context.quantized_output()
    a, b = (context.parameters(v) for v in binding.value.args)
    try:
        a_multiplier, b_multiplier, shift = sum_multipliers(a, b, output)
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
        output_dtype=output.dtype,
    )
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))


@quantization_rule("relax.multiply", kind="multiply", check=no_constant, inputs_of_16_bits=ANY, output_of_16_bits=True)
def multiply(binding: Binding, context: Context) -> relax.Expr:
    """`relax.multiply` of two activations -> `qnn.multiply`."""
    output = context.quantized_output()
    a, b = (context.parameters(v) for v in binding.value.args)
    multiplier = float(np.float32(a.scale * b.scale / output.scale))
    fields = requantization(context, ops.Multiply(), a.furthest * b.furthest * a.scale * b.scale)
    quantized = ops.QMultiply(a_zero_point=a.zero_point, b_zero_point=b.zero_point, multiplier=multiplier, **fields)
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))


@quantization_rule(ops.PRelu, kind="prelu", inputs_of_16_bits=1, output_of_16_bits=True)
def prelu(binding: Binding, context: Context) -> relax.Expr:
    """`nn.prelu` -> `qnn.prelu`."""
    output, (x, slope) = context.quantized_output(), binding.value.args
    slopes = constant(slope)
    if slopes is None:
        raise NotQuantizable("its slopes aren't constant")
    source = context.parameters(x)
    ratio = source.scale / output.scale
    steepest = max(1.0, float(np.abs(slopes).max(initial=0)))
    fields = requantization(context, ops.PRelu(), source.furthest * source.scale * steepest)
    multiplier, slopes = float(np.float32(ratio)), (slopes.astype("float64") * ratio).astype("float32")
    quantized = ops.QPRelu(input_zero_point=source.zero_point, multiplier=multiplier, **fields)
    return make_call(quantized, context.quantized(x), make_constant(slopes))


@quantization_rule(ops.Unary, kind="unary", inputs_of_16_bits=1, output_of_16_bits=True)
def unary(binding: Binding, context: Context) -> relax.Expr:
    """`nn.unary` -> `qnn.lookup`, the function of each of the 256 quantized values, or `qnn.interpolate`.

    A hard-swish of a layer's sums becomes `qnn.hard_swish`.
    """
    output, x = context.quantized_output(), binding.value.args[0]
    sums = context.sums(x)
    if sums is not None:
        return _hard_swish(binding, sums, output)
    return function_of(context.quantized(x), context.parameters(x), description(binding, ops.Unary).formula, output)


@dataclass(frozen=True)
class HardSwish:
    """The function `factor * x * clip(x + 3, 0, 6) / 6 + shift`."""

    factor: float
    shift: float

    @classmethod
    def of(cls, binding: Binding) -> HardSwish | None:
        """Return what an operator computes, None if it is no such function."""
        operator = operator_of(binding.value) if isinstance(binding.value, relax.Call) else None
        if not isinstance(operator, ops.Unary):
            return None
        shift, top = operator.formula(np.array([-10.0, 10.0]))
        found, x = cls(float(top - shift) / 10, float(shift)), np.linspace(-8, 8, 257)
        expected = found.factor * x * np.clip(x + 3, 0, 6) / 6 + found.shift
        values = operator.formula(x)
        return found if found.factor != 0 and np.allclose(values, expected, rtol=1e-6, atol=1e-6) else None


def stays_float(flow: Dataflow, var: relax.Var, chosen: Set[relax.Var]) -> bool:
    """Return whether a tensor isn't rounded to 8 bits between int8 operators: a layer's sums that a hard-swish reads.

    Args:
        flow: the float program.
        var: the tensor.
        chosen: the results of all int8 operators.
    """
    producer, user = flow.producers.get(var), flow.only_user(var)
    if producer is None or user is None or var not in chosen or user.var not in chosen:
        return False
    layer = operator_of(producer.value) if isinstance(producer.value, relax.Call) else None
    return isinstance(layer, ops.Linear) and not layer.is_limited and HardSwish.of(user) is not None


def _hard_swish(binding: Binding, sums: relax.Var, output: QuantizationParameters) -> relax.Expr:
    """Return `qnn.hard_swish` of a layer's sums, which were never rounded to 8 bits."""
    function = HardSwish.of(binding)
    if function is None:
        raise TypeError(f"{binding.var.name} reads sums in float32, and isn't a hard-swish")
    (low, high), scales = output.limits, output.scales_for(tensor_type(sums).shape[-1])
    # A shift is added as a whole number, of finer steps than those of the result.
    bits = FRACTION_BITS if function.shift else 0
    factor, shift = function.factor * 2.0**bits / (6 * scales), 6 * function.shift / function.factor
    # Where the function, which is nearly a line there, leaves what the result can hold.
    furthest = ((high - low + 1) * scales.max() + abs(function.shift)) / abs(function.factor)
    largest = min(2.0**29 / (6 * np.abs(factor).max()), 1e37)
    if not (largest > max(3.0, 2 * furthest) and np.abs(shift * factor).max() < 2**29):
        raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    operator = ops.QHardSwish(output.zero_point, low, high, output.dtype, shift, bits, largest)
    return make_call(operator, sums, make_constant(factor.astype("float32")))


def function_of(
    x: relax.Var,
    parameters: QuantizationParameters,
    function: Callable[[Array], Array],
    output: QuantizationParameters,
) -> relax.Expr:
    """Return what maps each quantized value to the quantized value nearest to a function of what it stands for.

    With 16 bits, that is linear between the entries of a table of 256 pieces or, if any quantized value would be off by
    more than one, of up to 4096.

    Args:
        x: uint8 or int16.
        parameters: its scale and zero point.
        function: of float64. An infinity, outside of its domain, becomes the largest or smallest quantized value; NaN
            counts as zero.
        output: the result's scale and zero point.
    """
    if parameters.dtype == "int16":
        return _interpolated(x, parameters, function, output)
    table = np.clip(np.rint(_steps(function(parameters.all_values()), output)), *output.limits).astype(output.dtype)
    return make_call(ops.QLookup(), x, make_constant(table))


def _steps(values: Array, output: QuantizationParameters) -> Array:
    """Return real values in steps of a quantized tensor."""
    finite = np.nan_to_num(values, nan=0.0, posinf=1e30, neginf=-1e30)
    return np.asarray(finite / output.scale + output.zero_point)


def _interpolated(
    x: relax.Var,
    parameters: QuantizationParameters,
    function: Callable[[Array], Array],
    output: QuantizationParameters,
) -> relax.Expr:
    low, high = output.limits
    operator, margin = ops.QInterpolate(0, low, high, output.dtype), (high - low) / 2
    inputs = np.arange(parameters.limits[0], parameters.limits[1] + 1).astype("int16")
    exact = np.clip(_steps(function(parameters.all_values()), output), low, high)
    for bits in range(FEWEST_PIECES, MOST_PIECES + 1):
        places = (np.arange(2**bits + 1) * 2.0 ** (16 - bits) - 2**15) * parameters.scale
        # Entries may lie outside of the range, so that pieces that leave it have the right slope.
        steps = np.clip(_steps(function(places), output), low - margin, high + margin)
        table = np.rint(steps * 2**operator.FRACTION_BITS).astype("int32")
        if np.abs(operator.evaluate(inputs, table) - exact).max() <= 1:
            break
    return make_call(operator, x, make_constant(table))
