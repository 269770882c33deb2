"""Dense layers, and products of two activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.quantization.rules.linear import OUTPUT_SCALE_TOO_SMALL, quantized_product
from pipeline.quantization.rules.rule import (
    Context,
    NotQuantizable,
    constant_weights,
    description,
    no_constant,
    quantization_rule,
    sums_fit,
)


@quantization_rule(ops.Dense, kind="dense", check=constant_weights)
def dense(binding: Binding, context: Context) -> relax.Expr:
    """`nn.dense` -> `qnn.dense`."""
    arguments, common = quantized_product(binding, description(binding, ops.Dense), context)
    return make_call(ops.QDense(**common), *arguments)


@quantization_rule(ops.MatMul, kind="matmul", check=lambda binding: sums_fit(binding) or no_constant(binding))
def matmul(binding: Binding, context: Context) -> relax.Expr:
    """`nn.matmul` -> `qnn.matmul`."""
    operator = description(binding, ops.MatMul)
    a, b = (context.parameters(v) for v in binding.value.args)
    multiplier = a.scale * b.scale
    requantized: dict[str, Any] = {}
    if context.output is not None:
        multiplier /= context.output.scale
        requantized["output_zero_point"] = context.output.zero_point
        if not tensor_type(binding.value.args[0]).shape[-1] * 255 * 255 * multiplier < 2**30:
            raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    quantized = ops.QMatMul(
        transpose_b=operator.transpose_b,
        a_zero_point=a.zero_point,
        b_zero_point=b.zero_point,
        multiplier=float(np.float32(multiplier)),
        output_dtype="float32" if context.output is None else "uint8",
        **requantized,
    )
    return make_call(quantized, *(context.quantized(v) for v in binding.value.args))
