"""Softmax."""

from __future__ import annotations

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding, make_constant
from pipeline.quantization.rules.linear import OUTPUT_SCALE_TOO_SMALL
from pipeline.quantization.rules.rule import Context, NotQuantizable, quantization_rule, sums_fit

MAX_EXPONENTIAL_BITS = 23
"""Integers of more bits aren't all exact in float32."""


@quantization_rule(ops.Softmax, kind="softmax", check=sums_fit)
def softmax(binding: Binding, context: Context) -> relax.Expr:
    """`nn.softmax` -> `qnn.softmax`, with as many bits for exponentials as their sums leave."""
    output, x = context.quantized_output(), binding.value.args[0]
    length = tensor_type(x).shape[-1]
    bits = min(MAX_EXPONENTIAL_BITS, 30 - (length - 1).bit_length())
    table = np.rint(np.exp(-context.parameters(x).scale * np.arange(256)) * 2**bits).astype("int32")
    multiplier = float(np.float32(1.0 / output.scale))
    if not multiplier < 2**30:
        raise NotQuantizable(OUTPUT_SCALE_TOO_SMALL)
    quantized = ops.QSoftmax(multiplier=multiplier, output_zero_point=output.zero_point)
    return make_call(quantized, context.quantized(x), make_constant(table))
