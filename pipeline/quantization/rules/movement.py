"""Operators that move values, or join tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import Binding, constant, with_arguments
from pipeline.quantization.rules.elementwise import function_of
from pipeline.quantization.rules.rule import ANY, Context, description, no_constant, quantization_rule

_ANY_BITS: Mapping[str, Any] = {"inputs_of_16_bits": ANY, "output_of_16_bits": True}
"""Values are moved, whatever they are."""


def _fixed_choice(binding: Binding) -> str | None:
    x, indices = binding.value.args
    fixed = isinstance(x, relax.Var) and constant(indices) is not None
    return None if fixed else "what it picks isn't fixed"


@quantization_rule(ops.DepthToSpace, kind="depth_to_space", **_ANY_BITS)
@quantization_rule(ops.MaxPool2d, kind="max_pool2d", **_ANY_BITS)
@quantization_rule("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten", kind="reshape", **_ANY_BITS)
@quantization_rule("relax.permute_dims", kind="transpose", **_ANY_BITS)
@quantization_rule("relax.strided_slice", kind="slice", **_ANY_BITS)
@quantization_rule("relax.take", kind="gather", check=_fixed_choice, **_ANY_BITS)
def move(binding: Binding, context: Context) -> relax.Expr:
    """An operator that only moves values -> the same operator on quantized values."""
    value = binding.value
    args = [context.quantized(value.args[0]), *value.args[1:]]
    return with_arguments(value, args)


@quantization_rule(ops.Pad, kind="pad", **_ANY_BITS)
def pad(binding: Binding, context: Context) -> relax.Expr:
    """`nn.pad` -> `nn.pad` of quantized values, with the padding value quantized, too."""
    operator = description(binding, ops.Pad)
    value, _ = context.quantized_output().quantized_range(operator.value, None)
    quantized = ops.Pad(padding=operator.padding, value=float(value))
    return make_call(quantized, context.quantized(binding.value.args[0]))


@quantization_rule("relax.concat", kind="concat", check=no_constant, unifies_inputs=True, **_ANY_BITS)
def concat(binding: Binding, context: Context) -> relax.Expr:
    """`relax.concat` -> the same on quantized values; an input with another scale is requantized by a table first."""
    output = context.quantized_output()
    parts = []
    for i, part in enumerate(binding.value.args[0].fields):
        source, quantized = context.parameters(part), context.quantized(part)
        if source != output:
            requantized = function_of(quantized, source, lambda values: values, output)
            quantized = context.emit(requantized, f"{binding.var.name}.part{i}")
        parts.append(quantized)
    return relax.op.concat(parts, int(binding.value.attrs["axis"]))
