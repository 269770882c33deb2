"""ReplaceRelaxOperators: float operators of Relax become our own, which have kernels of their own.

Before -> after: `relax.mean` of images over height and width, and `relax.nn.avg_pool2d`, become `nn.avg_pool2d`;
`relax.multiply` becomes `nn.multiply`. The integer program has had its own forms of them since realization.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, make_constant
from pipeline.ops.pooling import counted_pixels

_STOCK = frozenset({"relax.mean", "relax.multiply", "relax.nn.avg_pool2d"})


def replace_relax_operators(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with float operators that have kernels; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        attrs, constants = _replacement(binding)
        if attrs is None:
            builder.copy(binding)
            continue
        inputs = binding.value.args if isinstance(attrs, ops.Multiply) else binding.value.args[:1]
        call = make_call(attrs, *(builder.replaced(a) for a in inputs), *constants)
        result, shape = builder.emit(call, binding.var.name), tensor_type(binding.var).shape
        if tensor_type(result).shape != shape:
            result = builder.emit(relax.op.reshape(result, list(shape)), f"{binding.var.name}.flat")
        builder.values[binding.var] = result
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _replacement(binding: Binding) -> tuple[ops.Operator | None, list[relax.Expr]]:
    """Return our operator that computes a binding, and its constants; None if there is none."""
    nothing: tuple[None, list[relax.Expr]] = (None, [])
    if binding.operator not in _STOCK or tensor_type(binding.var).dtype != "float32":
        return nothing
    if binding.operator == "relax.multiply":
        return ops.Multiply(), []
    attrs, x = binding.value.attrs, tensor_type(binding.value.args[0]).shape
    if binding.operator == "relax.mean":
        axes = None if attrs["axis"] is None else sorted(int(a) % len(x) for a in attrs["axis"])
        if len(x) != 4 or axes != [1, 2]:
            return nothing
        return ops.AvgPool2d(pool_size=(x[1], x[2])), [make_constant(np.full((1, 1), 1 / (x[1] * x[2]), "float32"))]
    if str(attrs["layout"]) != "NHWC" or any(int(d) != 1 for d in attrs["dilation"]):
        return nothing
    (window_h, window_w), (down, across) = ([int(v) for v in attrs[k]] for k in ("pool_size", "strides"))
    top, left, bottom, right = (int(v) for v in attrs["padding"])
    pool = ops.AvgPool2d((window_h, window_w), (down, across), (top, left, bottom, right))
    outs, include = tensor_type(binding.var).shape[1:3], bool(attrs["count_include_pad"])
    counted = counted_pixels(x[1:3], outs, pool.pool_size, pool.strides, pool.padding, include)
    return pool, [make_constant((1 / counted).astype("float32"))]
