"""HoistOverDepthToSpace: what treats all pixels alike comes before channels become pixels, next to the convolution.

Before -> after: `depth_to_space(conv2d(...)) + a`, with one a per channel or for all, becomes
`depth_to_space(conv2d(...) + tile(a))`; the same for other arithmetic with constants, and for limits.

Precondition: NHWC (after PropagateLayout).
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from pipeline.dialect import attributes as op
from pipeline.dialect.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant
from pipeline.dialect.operators import describe, make_call, tensor_type

HOISTED = frozenset(
    f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "nn.relu")
)


def hoist_over_depth_to_space(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with arithmetic moved before `nn.depth_to_space`; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    # What each variable of the old program is made of, if it is a depth_to_space: an expression of the new one.
    sources: dict[relax.Expr, tuple[relax.Expr, op.DepthToSpace]] = {}
    for binding in flow.bindings:
        attrs = describe(binding.value)
        if isinstance(attrs, op.DepthToSpace):
            sources[binding.var] = (builder.replaced(binding.value.args[0]), attrs)
            builder.copy(binding)
            continue
        x = next((a for a in getattr(binding.value, "args", ()) if a in sources), None)
        arguments = None if x is None else _arguments(flow, binding, x, *sources[x])
        if x is None or arguments is None:
            builder.copy(binding)
            continue
        attrs = sources[x][1]
        call = relax.Call(binding.value.op, arguments, binding.value.attrs, list(binding.value.ty_args))
        source = builder.emit(call, binding.var.name)
        sources[binding.var] = (source, attrs)
        builder.values[binding.var] = builder.emit(make_call(attrs, source), binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _arguments(
    flow: Dataflow, binding: Binding, x: relax.Expr, source: relax.Expr, attrs: op.DepthToSpace
) -> list[relax.Expr] | None:
    """Return the operator's arguments with x replaced by its source, or None if it can't be moved."""
    if binding.operator not in HOISTED or flow.only_user(x) is None:
        return None
    arguments: list[relax.Expr] = []
    for argument in binding.value.args:
        value = constant(argument)
        if argument == x:
            arguments.append(source)
        elif value is not None and value.size > 1:
            if value.shape[-1] != value.size or value.size != tensor_type(x).shape[-1]:
                return None
            arguments.append(make_constant(np.tile(value.reshape(-1), math.prod(attrs.block))))
        elif isinstance(argument, relax.Var):
            return None
        else:
            arguments.append(argument)
    return arguments
