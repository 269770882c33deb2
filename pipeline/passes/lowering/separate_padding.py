"""SeparatePadding: the padding of convolutions becomes an operator, so that kernels needn't handle image edges.

Before -> after: `conv2d(x, padding=p)` becomes `conv2d(nn.pad(x, p), padding=0)`, for the float and the integer
operator. For the integer operator, the padding's value is the input's zero point, and the convolution is told how many
rows are padding, as kernels may leave these out. Convolutions of the same tensor with the same padding share one
`nn.pad`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of
from pipeline.ir.dataflow import Binding, DataflowBuilder
from pipeline.ir.rewriting import rewrite_bindings


def separate_padding(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with explicit padding; see the module's docstring."""
    padded: dict[tuple[relax.Expr, ops.Pad], relax.Var] = {}

    def visit(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        operator = operator_of(binding.value)
        if not isinstance(operator, ops.Conv2d | ops.QConv2d) or not any(operator.padding):
            return None
        value = 0.0
        changed: dict[str, Any] = {"padding": (0, 0, 0, 0)}
        if isinstance(operator, ops.QConv2d):
            value = float(operator.input_zero_point)
            changed["zero_rows"] = (operator.padding[0], operator.padding[2])
        x, *constants = (builder.replaced(a) for a in binding.value.args)
        pad = ops.Pad(padding=operator.padding, value=value)
        if (x, pad) not in padded:
            padded[x, pad] = builder.emit(make_call(pad, x), f"{binding.var.name}.padded")
        return make_call(dataclasses.replace(operator, **changed), padded[x, pad], *constants)

    return rewrite_bindings(module, visit)
