"""FuseConcatenations: images are enlarged and put side by side in one pass.

Before -> after, of images and their channels:

    `y = concat(a, resize2d(b))` becomes `y = nn.upsample_concat(a, b)`, with the factors by which b is enlarged.
    `y = resize2d(x)` alone becomes `y = nn.upsample_concat(x)`.
    `y = qnn.lookup(resize2d(x), table)` becomes `y = resize2d(qnn.lookup(x, table))` first: x has fewer pixels.

All of this is for nearest-neighbour resizing by whole factors, in which each pixel is repeated; what else there is
stays. A concatenation along another axis than an image's channels becomes one of rows of values.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import describe, make_call, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder

Factors = tuple[int, int]

_DTYPES = ("uint8", "float32")

_REPEATING = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Where resizing by a whole factor takes pixel i // factor (half-pixel centres never lie half-way then)."""


def fuse_concatenations(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with images assembled in one pass; see the module's docstring."""
    module = _look_up_before_enlarging(module)
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        name = binding.var.name
        if binding.operator == "relax.concat" and tensor_type(binding.var).dtype in _DTYPES:
            builder.values[binding.var] = _concat(flow, builder, binding)
        elif (factors := _enlarged_by(binding)) is not None:
            x = builder.replaced(binding.value.args[0])
            builder.values[binding.var] = builder.emit(make_call(ops.UpsampleConcat(factors), x), name)
        else:
            builder.copy(binding)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _concat(flow: Dataflow, builder: DataflowBuilder, binding: Binding) -> relax.Var:
    """Emit a concatenation as `nn.upsample_concat`, and return its variable."""
    name, output, parts = binding.var.name, tensor_type(binding.var), list(binding.value.args[0].fields)
    axis = int(binding.value.attrs["axis"]) % len(output.shape)
    if (len(output.shape), axis) == (4, 3):
        factors: list[int] = []
        for i, part in enumerate(parts):
            producer = flow.producers.get(part)
            enlarged = None if producer is None else _enlarged_by(producer)
            if producer is not None and enlarged is not None:
                parts[i] = producer.value.args[0]
            factors += enlarged or (1, 1)
        return builder.emit(make_call(ops.UpsampleConcat(tuple(factors)), *map(builder.replaced, parts)), name)
    rows = math.prod(output.shape[:axis])
    flat = [
        builder.emit(relax.op.reshape(builder.replaced(p), [1, rows, 1, tensor_type(p).size // rows]), f"{name}.rows")
        for p in parts
    ]
    result = builder.emit(make_call(ops.UpsampleConcat((1, 1) * len(flat)), *flat), f"{name}.joined")
    return builder.emit(relax.op.reshape(result, list(output.shape)), name)


def _look_up_before_enlarging(module: tvm.IRModule) -> tvm.IRModule:
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    for binding in flow.bindings:
        resize = flow.producers.get(binding.value.args[0]) if isinstance(describe(binding.value), ops.QLookup) else None
        if resize is None or _enlarged_by(resize) is None:
            builder.copy(binding)
            continue
        x, table = builder.replaced(resize.value.args[0]), binding.value.args[1]
        found = builder.emit(make_call(ops.QLookup(), x, table), f"{binding.var.name}.small")
        resized = relax.Call(resize.value.op, [found, *resize.value.args[1:]], resize.value.attrs)
        builder.values[binding.var] = builder.emit(resized, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


def _enlarged_by(binding: Binding) -> Factors | None:
    """Return how often a binding repeats each row and column of an image; None if it does anything else."""
    if binding.operator != "relax.image.resize2d":
        return None
    attrs, x, y = binding.value.attrs, tensor_type(binding.value.args[0]), tensor_type(binding.var)
    how = (str(attrs["coordinate_transformation_mode"]), str(attrs["rounding_method"]))
    if str(attrs["layout"]) != "NHWC" or str(attrs["method"]) != "nearest_neighbor" or how not in _REPEATING:
        return None
    if x.dtype not in _DTYPES or x.dtype != y.dtype:
        return None
    rows, columns = (y.shape[i] // x.shape[i] for i in (1, 2))
    return (rows, columns) if y.shape[1:3] == (x.shape[1] * rows, x.shape[2] * columns) else None
