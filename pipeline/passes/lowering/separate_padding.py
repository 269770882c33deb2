"""SeparatePadding: convolutions never see an edge.

Before -> after: `conv2d(x, padding=p)` becomes `conv2d(nn.pad(x, p), padding=0)`, for the float and the integer
operator; the integer one is padded with its input's zero point. Convolutions of the same tensor with the same padding
share it.
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call
from pipeline.ir.dataflow import Dataflow, DataflowBuilder


def separate_padding(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with explicit padding; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    padded: dict[tuple[relax.Expr, ops.Pad], relax.Var] = {}
    for binding in flow.bindings:
        attrs = describe(binding.value)
        if not isinstance(attrs, ops.Conv2d | ops.QConv2d) or not any(attrs.padding):
            builder.copy(binding)
            continue
        value = float(attrs.input_zero_point) if isinstance(attrs, ops.QConv2d) else 0.0
        x, *constants = (builder.replaced(a) for a in binding.value.args)
        pad = ops.Pad(padding=attrs.padding, value=value)
        if (x, pad) not in padded:
            padded[x, pad] = builder.emit(make_call(pad, x), f"{binding.var.name}.padded")
        unpadded = dataclasses.replace(attrs, padding=(0, 0, 0, 0))
        call = make_call(unpadded, padded[x, pad], *constants)
        builder.values[binding.var] = builder.emit(call, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])
