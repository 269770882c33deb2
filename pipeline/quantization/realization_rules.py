"""How each float operator is written with integers. One function an operator, one table of them.

To make an operator quantizable, add a row to `quantization.annotation_rules.RULES` and a function of the same key to
`RULES` here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, constant, make_constant
from pipeline.ops.pooling import counted_pixels
from pipeline.quantization.weights import accumulator_bounds, quantize_weights, short_multipliers, sum_multipliers

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QParams:
    """real = scale * (code - zero_point), codes 0..255."""

    scale: float
    zero_point: int

    def code_range(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Return the smallest and largest code of a tensor limited to [low, high]; None is no limit."""

        def code(value: float) -> int:
            return int(min(max(round(value / self.scale) + self.zero_point, 0), 255))

        return (0 if low is None else code(low), 255 if high is None else code(high))


class NotRealizable(Exception):
    """With these scales an operator can't be computed in integers; the message says why."""


@dataclass(frozen=True)
class Context:
    """What a rule may use.

    Attributes:
        codes: returns the 8-bit variable that holds a float tensor.
        params: returns the scale and zero point of an 8-bit tensor.
        emit: appends an expression under a name and returns its variable.
        per_channel: whether the operator's weights get one scale per output channel.
        output: the result's scale and zero point; None if it is to be float32.
    """

    codes: Callable[[relax.Var], relax.Var]
    params: Callable[[relax.Var], QParams]
    emit: Callable[[relax.Expr, str], relax.Var]
    per_channel: bool
    output: QParams | None


Rule = Callable[[Binding, Context], relax.Expr]


def conv2d(binding: Binding, context: Context) -> relax.Expr:
    """`nn.conv2d` -> `qnn.conv2d`."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.Conv2d):
        raise TypeError(f"Expected nn.conv2d, got {attrs}")
    constants, requantized = _product(binding, attrs.clip_min, attrs.clip_max, context)
    quantized = ops.QConv2d(
        strides=attrs.strides, padding=attrs.padding, dilation=attrs.dilation, groups=attrs.groups, **requantized
    )
    return make_call(quantized, context.codes(binding.value.args[0]), *constants)


def conv2d_transpose(binding: Binding, context: Context) -> relax.Expr:
    """`nn.conv2d_transpose` -> `qnn.conv2d_transpose`."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.Conv2dTranspose):
        raise TypeError(f"Expected nn.conv2d_transpose, got {attrs}")
    constants, requantized = _product(binding, attrs.clip_min, attrs.clip_max, context)
    quantized = ops.QConv2dTranspose(
        strides=attrs.strides,
        padding=attrs.padding,
        output_padding=attrs.output_padding,
        dilation=attrs.dilation,
        groups=attrs.groups,
        **requantized,
    )
    return make_call(quantized, context.codes(binding.value.args[0]), *constants)


def dense(binding: Binding, context: Context) -> relax.Expr:
    """`nn.dense` -> `qnn.dense`."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.Dense):
        raise TypeError(f"Expected nn.dense, got {attrs}")
    constants, requantized = _product(binding, attrs.clip_min, attrs.clip_max, context)
    return make_call(ops.QDense(**requantized), context.codes(binding.value.args[0]), *constants)


def _product(
    binding: Binding, clip_min: float | None, clip_max: float | None, context: Context
) -> tuple[list[relax.Expr], dict[str, Any]]:
    """Return the constant arguments and the attributes that convolution and dense have in common."""
    weight, bias = constant(binding.value.args[1]), constant(binding.value.args[2])
    if weight is None or bias is None:
        raise NotRealizable("its weights aren't constant")
    x = context.params(binding.value.args[0])
    weights = quantize_weights(weight, bias, x.scale, per_channel=context.per_channel)
    bound, bound_on_the_way = accumulator_bounds(weights, x.zero_point)
    if (bound_on_the_way >= 2**31).any():
        raise NotRealizable("its accumulator could exceed 32 bits")
    common: dict[str, Any] = {"input_zero_point": x.zero_point}
    if context.output is None:
        multiplier = x.scale * weights.scale
        common["output_dtype"] = "float32"
    else:
        multiplier = x.scale * weights.scale / context.output.scale
        low, high = context.output.code_range(clip_min, clip_max)
        common |= {"output_zero_point": context.output.zero_point, "output_min": low, "output_max": high}
    if context.output is not None and not (bound * multiplier < 2**30).all():
        raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    arrays = (weights.weight, weights.bias, short_multipliers(multiplier))
    return [make_constant(a) for a in arrays], common


def matmul(binding: Binding, context: Context) -> relax.Expr:
    """`nn.matmul` -> `qnn.matmul`."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.MatMul):
        raise TypeError(f"Expected nn.matmul, got {attrs}")
    a, b = (context.params(v) for v in binding.value.args)
    multiplier, requantized = a.scale * b.scale, {}
    if context.output is not None:
        multiplier /= context.output.scale
        requantized = {"output_zero_point": context.output.zero_point}
        if not tensor_type(binding.value.args[0]).shape[-1] * 255 * 255 * multiplier < 2**30:
            raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    quantized = ops.QMatMul(
        transpose_b=attrs.transpose_b,
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        multiplier=float(np.float32(multiplier)),
        output_dtype="float32" if context.output is None else "uint8",
        **requantized,
    )
    return make_call(quantized, *(context.codes(v) for v in binding.value.args))


def softmax(binding: Binding, context: Context) -> relax.Expr:
    """`nn.softmax` -> `qnn.softmax`, with as many bits for exponentials as their sums leave."""
    output, x = _output(context), binding.value.args[0]
    length = tensor_type(x).shape[-1]
    bits = min(MAX_EXPONENTIAL_BITS, 30 - (length - 1).bit_length())
    table = np.rint(np.exp(-context.params(x).scale * np.arange(256)) * 2**bits).astype("int32")
    multiplier = float(np.float32(1.0 / output.scale))
    if not multiplier < 2**30:
        raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    attrs = ops.QSoftmax(multiplier=multiplier, output_zero_point=output.zero_point)
    return make_call(attrs, context.codes(x), make_constant(table))


MAX_EXPONENTIAL_BITS = 23
"""More wouldn't be exact in float32."""


def add(binding: Binding, context: Context) -> relax.Expr:
    """`nn.add` -> `qnn.add`."""
    attrs, output = describe(binding.value), _output(context)
    if not isinstance(attrs, ops.Add):
        raise TypeError(f"Expected nn.add, got {attrs}")
    a, b = (context.params(v) for v in binding.value.args)
    try:
        a_multiplier, b_multiplier, shift = sum_multipliers(a.scale, b.scale, output.scale)
    except ValueError as error:
        raise NotRealizable(str(error)) from error
    low, high = output.code_range(attrs.clip_min, attrs.clip_max)
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
    return make_call(quantized, *(context.codes(v) for v in binding.value.args))


def multiply(binding: Binding, context: Context) -> relax.Expr:
    """`relax.multiply` of two activations -> `qnn.multiply`."""
    output = _output(context)
    a, b = (context.params(v) for v in binding.value.args)
    multiplier = float(np.float32(a.scale * b.scale / output.scale))
    if not 255 * 255 * multiplier < 2**30:
        raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    quantized = ops.QMultiply(
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        multiplier=multiplier,
        output_zero_point=output.zero_point,
    )
    return make_call(quantized, *(context.codes(v) for v in binding.value.args))


def prelu(binding: Binding, context: Context) -> relax.Expr:
    """`nn.prelu` -> `qnn.prelu`."""
    output, (x, slope) = _output(context), binding.value.args
    slopes = constant(slope)
    if slopes is None:
        raise NotRealizable("its slopes aren't constant")
    ratio = context.params(x).scale / output.scale
    multiplier, slopes = float(np.float32(ratio)), (slopes.astype("float64") * ratio).astype("float32")
    if not 255 * max(multiplier, np.abs(slopes).max(initial=0)) < 2**30:
        raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    quantized = ops.QPRelu(
        output_zero_point=output.zero_point, input_zero_point=context.params(x).zero_point, multiplier=multiplier
    )
    return make_call(quantized, context.codes(x), make_constant(slopes))


def mean(binding: Binding, context: Context) -> relax.Expr:
    """`relax.mean` over height and width -> `qnn.avg_pool2d` with a window of the whole image."""
    x = binding.value.args[0]
    _, height, width, channels = tensor_type(x).shape
    call = _avg_pool(x, (height, width), (1, 1), (0, 0, 0, 0), np.full((1, 1), height * width), context)
    if bool(binding.value.attrs["keepdims"]):
        return call
    pooled = context.emit(call, f"{binding.var.name}.pooled")
    return relax.op.reshape(pooled, [tensor_type(x).shape[0], channels])


def avg_pool2d(binding: Binding, context: Context) -> relax.Expr:
    """`relax.nn.avg_pool2d` -> `qnn.avg_pool2d`."""
    x, attrs = binding.value.args[0], binding.value.attrs
    _, out_h, out_w, _ = tensor_type(binding.var).shape
    pool_size = tuple(int(v) for v in attrs["pool_size"])
    strides = tuple(int(v) for v in attrs["strides"])
    padding = tuple(int(v) for v in attrs["padding"])
    include = bool(attrs["count_include_pad"])
    counted = counted_pixels(tensor_type(x).shape[1:3], (out_h, out_w), pool_size, strides, padding, include)
    return _avg_pool(x, pool_size, strides, padding, counted, context)


def _avg_pool(x: relax.Var, pool_size: Any, strides: Any, padding: Any, counted: Array, context: Context) -> relax.Expr:
    output, source = _output(context), context.params(x)
    multiplier = (source.scale / (output.scale * counted.astype("float64"))).astype("float32")
    if not (255.0 * math.prod(pool_size) * multiplier < 2**30).all():
        raise NotRealizable("its result could exceed 32 bits: the output's scale is too small")
    attrs = ops.QAvgPool2d(
        pool_size=pool_size,
        strides=strides,
        padding=padding,
        input_zero_point=source.zero_point,
        output_zero_point=output.zero_point,
    )
    return make_call(attrs, context.codes(x), make_constant(multiplier))


def unary(binding: Binding, context: Context) -> relax.Expr:
    """`nn.unary` -> `qnn.lookup`: the function of every one of the 256 codes."""
    attrs, output = describe(binding.value), _output(context)
    if not isinstance(attrs, ops.Unary):
        raise TypeError(f"Expected nn.unary, got {attrs}")
    x = binding.value.args[0]
    source = context.params(x)
    values = (np.arange(256, dtype="float64") - source.zero_point) * source.scale
    results = attrs.formula(values)
    return _lookup(context.codes(x), results, output)


def _lookup(codes: relax.Var, values: Array, output: QParams) -> relax.Expr:
    """Return the lookup that gives code i the code nearest to values[i]; outside a function's domain, that of zero."""
    finite = np.nan_to_num(values, nan=0.0, posinf=1e30, neginf=-1e30)
    table = np.clip(np.rint(finite / output.scale) + output.zero_point, 0, 255).astype("uint8")
    return make_call(ops.QLookup(), codes, make_constant(table))


def concat(binding: Binding, context: Context) -> relax.Expr:
    """`relax.concat` -> itself on codes; a part with another scale goes through a table first."""
    output = _output(context)
    parts = []
    for i, part in enumerate(binding.value.args[0].fields):
        source, codes = context.params(part), context.codes(part)
        if source != output:
            values = (np.arange(256, dtype="float64") - source.zero_point) * source.scale
            codes = context.emit(_lookup(codes, values, output), f"{binding.var.name}.part{i}")
        parts.append(codes)
    return relax.op.concat(parts, int(binding.value.attrs["axis"]))


def move(binding: Binding, context: Context) -> relax.Expr:
    """An operator that only moves values -> itself on codes."""
    value = binding.value
    args = [context.codes(value.args[0]), *value.args[1:]]
    return relax.Call(value.op, args, value.attrs, list(value.ty_args))


def resize_bilinear(binding: Binding, context: Context) -> relax.Expr:
    """`nn.resize_bilinear` -> `qnn.resize_bilinear`; no mean is outside of what it is made from."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.ResizeBilinear):
        raise TypeError(f"Expected nn.resize_bilinear, got {attrs}")
    quantized = ops.QResizeBilinear(attrs.size, attrs.starts, attrs.steps)
    return make_call(quantized, context.codes(binding.value.args[0]))


def pad(binding: Binding, context: Context) -> relax.Expr:
    """`nn.pad` -> itself on codes, its value too."""
    attrs = describe(binding.value)
    if not isinstance(attrs, ops.Pad):
        raise TypeError(f"Expected nn.pad, got {attrs}")
    code, _ = _output(context).code_range(attrs.value, None)
    return make_call(ops.Pad(padding=attrs.padding, value=float(code)), context.codes(binding.value.args[0]))


def _output(context: Context) -> QParams:
    if context.output is None:
        raise NotRealizable("nothing that reads it is int8")
    return context.output


RULES: dict[str, Rule] = {
    "nn.conv2d": conv2d,
    "nn.conv2d_transpose": conv2d_transpose,
    "nn.depth_to_space": move,
    "nn.dense": dense,
    "nn.matmul": matmul,
    "nn.softmax": softmax,
    "nn.add": add,
    "nn.unary": unary,
    "nn.max_pool2d": move,
    "nn.resize_bilinear": resize_bilinear,
    "nn.pad": pad,
    "nn.prelu": prelu,
    "relax.multiply": multiply,
    "relax.mean": mean,
    "relax.nn.avg_pool2d": avg_pool2d,
    "relax.concat": concat,
    "relax.reshape": move,
    "relax.permute_dims": move,
    "relax.squeeze": move,
    "relax.expand_dims": move,
    "relax.flatten": move,
    "relax.strided_slice": move,
    "relax.image.resize2d": move,
    "relax.take": move,
}
"""Operator -> how it is written with integers."""
