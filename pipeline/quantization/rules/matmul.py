"""Dense layers, and products of two activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.quantization.rules.linear import joined_sums, quantized_product, requantization
from pipeline.quantization.rules.rule import (
    Context,
    NotQuantizable,
    constant_weights,
    description,
    no_constant,
    quantization_rule,
    sums_fit,
)


@quantization_rule(ops.Dense, kind="dense", check=constant_weights, inputs_of_16_bits=1, output_of_16_bits=True)
def dense(binding: Binding, context: Context) -> relax.Expr:
    """`nn.dense` -> `qnn.dense`."""
    return quantized_product(binding, description(binding, ops.Dense), context, ops.QDense)


@quantization_rule(
    ops.MatMul,
    kind="matmul",
    check=lambda binding: sums_fit(binding) or no_constant(binding),
    inputs_of_16_bits=1,
    output_of_16_bits=True,
)
def matmul(binding: Binding, context: Context) -> relax.Expr:
    """`nn.matmul` -> `qnn.matmul`."""
    operator, (x, y) = description(binding, ops.MatMul), binding.value.args
    a, b = context.parameters(x), context.parameters(y)
    scale, depth = a.scale * b.scale, tensor_type(x).shape[-1]
    fields = requantization(context, operator, depth * a.furthest * b.furthest * scale)
    if "int16" in (a.dtype, b.dtype):
        return _product_of_16_bits(binding, context, fields)
    quantized = ops.QMatMul(
        transpose_b=operator.transpose_b,
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        multiplier=float(np.float32(scale if context.output is None else scale / context.output.scale)),
        **fields,
    )
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))


def _product_of_16_bits(binding: Binding, context: Context, fields: dict[str, Any]) -> relax.Expr:
    """Return the products with both bytes of the operand of 16 bits, which become an axis in front, joined."""
    parameters = [context.parameters(v) for v in binding.value.args]
    if parameters[0].dtype == parameters[1].dtype:
        raise NotQuantizable("only one of its inputs can have 16 bits")
    result = tensor_type(binding.var).shape
    operands = []
    for i, (var, own) in enumerate(zip(binding.value.args, parameters, strict=True)):
        if own.dtype == "int16":
            shape = tensor_type(var).shape
            in_front = [2, *(1,) * (len(result) - len(shape)), *shape]
            operands.append(
                context.emit(relax.op.reshape(context.both_bytes(var), in_front), f"{context.name}.{'ab'[i]}")
            )
        else:
            operands.append(context.quantized(var))
    zero_points = [ops.BYTE_ZERO_POINT if p.dtype == "int16" else p.zero_point for p in parameters]
    products = ops.QMatMul(
        transpose_b=description(binding, ops.MatMul).transpose_b,
        a_zero_point=zero_points[0],
        b_zero_point=zero_points[1],
        output_dtype="float32",
    )
    pairs = context.emit(make_call(products, *operands), f"{context.name}.pairs")
    sums = context.emit(relax.op.reshape(pairs, [2 * result[0], *result[1:]]), f"{context.name}.sums")
    scale = np.full(result[-1], parameters[0].scale * parameters[1].scale)
    return joined_sums(sums, np.zeros(result[-1]), scale, context, fields)
