"""Operators that pick elements by index, or find the indices of elements.

Indices count from the end where they are negative. Constant ones are checked; of computed ones that are out of range,
the nearest in range is taken, so that nothing outside of a tensor is ever read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import Array, Node, is_float, scalar, take
from pipeline.ir import dataflow
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import make_constant


def _indices_from_start(node: Node, index: int, extents: Array) -> relax.Expr:
    """Return an input of indices, counted from the start and in range.

    Args:
        node: the node.
        index: which of its inputs holds the indices.
        extents: how many elements there are, of a shape that is broadcast to the indices'.
    """
    indices = node.required(index)
    dtype = tensor_type(indices).dtype
    value = dataflow.constant(indices)
    if value is not None:
        wrong = (value < -extents) | (value >= extents)
        if wrong.any():
            raise ModelError(f"its index {int(value[wrong].reshape(-1)[0])} is out of range")
        return make_constant(np.where(value < 0, value + extents, value).astype(dtype))
    sizes, zero = make_constant(extents.astype(dtype)), scalar(0, dtype)
    if dtype.startswith("int"):
        negative = node.emit(relax.op.less(indices, zero))
        indices = node.emit(relax.op.where(negative, node.emit(relax.op.add(indices, sizes)), indices))
        indices = node.emit(relax.op.maximum(indices, zero))
    return node.emit(relax.op.minimum(indices, make_constant((extents - 1).astype(dtype))))


def gather(node: Node) -> relax.Expr:
    """The parts of a tensor along one axis at given indices."""
    axis = node.axis(0)
    if node.shape[axis] == 0:
        raise ModelError("it picks from an axis without elements")
    return relax.op.take(node.x, _indices_from_start(node, 1, np.array(node.shape[axis])), axis, mode="clip")


def gather_elements(node: Node) -> relax.Expr:
    """Single elements, moved along one axis."""
    axis = node.axis(0)
    return relax.op.gather_elements(node.x, _indices_from_start(node, 1, np.array(node.shape[axis])), axis)


def gather_nd(node: Node) -> relax.Expr:
    """The parts of a tensor at given places."""
    batch, length = int(node.attributes.get("batch_dims", 0)), node.input_type(1).shape[-1]
    indices = _indices_from_start(node, 1, np.array(node.shape[batch : batch + length]))
    return relax.op.gather_nd(node.x, indices, batch)


_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def _reduction(node: Node) -> str:
    name = node.text("reduction", "none")
    if name not in _REDUCTIONS:
        raise ModelError(f"there is no reduction {name!r}")
    if node.dtype == "bool":
        raise ModelError("it has no form for bool")
    return _REDUCTIONS[name]


def scatter_elements(node: Node) -> relax.Expr:
    """A tensor with single elements replaced, or changed."""
    axis, reduction = node.axis(0), _reduction(node)
    indices = _indices_from_start(node, 1, np.array(node.shape[axis]))
    if tensor_type(indices).shape == () or 0 in tensor_type(indices).shape:
        raise ModelError("it replaces nothing")
    return relax.op.scatter_elements(node.x, indices, node.required(2), axis, reduction)


def scatter_nd(node: Node) -> relax.Expr:
    """A tensor with parts at given places replaced, or changed."""
    reduction = _reduction(node)
    indices = _indices_from_start(node, 1, np.array(node.shape[: node.input_type(1).shape[-1]]))
    return relax.op.scatter_nd(node.x, indices, node.required(2), reduction)


def one_hot(node: Node) -> relax.Expr:
    """For each index a row with the second value there and the first elsewhere; out of range, the first everywhere."""
    depth = node.checked_constant(1, "how long its rows are")
    if depth is None:
        raise ModelError("how long its rows are is missing")
    count, rank = int(depth.reshape(-1)[0]), len(node.shape)
    axis = int(node.attributes.get("axis", -1)) % (rank + 1)
    if count < 1:
        raise ModelError(f"its rows have {count} elements")
    dtype = node.dtype
    indices: relax.Expr = node.x
    if not is_float(dtype) and not dtype.startswith("int"):
        indices, dtype = node.emit(relax.op.astype(indices, "int64")), "int64"
    negative = node.emit(relax.op.less(indices, scalar(0, dtype)))
    wrapped = node.emit(relax.op.add(indices, scalar(count, dtype)))
    indices = node.emit(relax.op.where(negative, wrapped, indices))
    column = node.emit(relax.op.expand_dims(indices, axis))
    places = np.arange(count, dtype=dtype).reshape([-1 if a == axis else 1 for a in range(rank + 1)])
    hit = node.emit(relax.op.equal(column, make_constant(places)))
    off, on = (node.emit(relax.op.reshape(node.emit(take(node.required(2), np.array([i]), 0)), [])) for i in (0, 1))
    return relax.op.where(hit, on, off)


def arg_max(node: Node) -> relax.Expr:
    """The index of the largest value along an axis: the first such one, or the last."""
    return _index_of_extreme(node, relax.op.argmax)


def arg_min(node: Node) -> relax.Expr:
    """The index of the smallest value along an axis: the first such one, or the last."""
    return _index_of_extreme(node, relax.op.argmin)


def _index_of_extreme(node: Node, find: Any) -> relax.Expr:
    axis, keepdims = node.axis(0), node.flag("keepdims", 1)
    size = node.shape[axis]
    if not node.flag("select_last_index"):
        return find(node.x, axis, keepdims)
    turned = node.emit(take(node.x, np.arange(size)[::-1], axis))
    return relax.op.subtract(scalar(size - 1, "int64"), node.emit(find(turned, axis, keepdims)))


def cumulative_sum(node: Node) -> relax.Expr:
    """Sums of the elements up to each one along an axis, or, if it is exclusive, of those before it."""
    given = node.checked_constant(1, "its axis")
    axis = node.normalized_axis(0 if given is None else int(given.reshape(-1)[0]))
    backwards = np.arange(node.shape[axis])[::-1]
    x = node.emit(take(node.x, backwards, axis)) if node.flag("reverse") else node.x
    y = node.emit(relax.op.cumsum(x, axis, exclusive=node.flag("exclusive")))
    return take(y, backwards, axis) if node.flag("reverse") else y


def top_k(node: Node) -> relax.Expr:
    """The largest or smallest values along an axis in order, and their indices; of equal ones the first is first."""
    given = node.checked_constant(1, "how many elements it keeps")
    axis = node.axis(-1)
    count = 0 if given is None else int(given.reshape(-1)[0])
    if not 1 <= count <= node.shape[axis]:
        raise ModelError(f"it keeps {count} of {node.shape[axis]} elements")
    return relax.op.topk(node.x, count, axis, "both", node.flag("largest", 1), "int64")


def non_max_suppression(node: Node) -> relax.Expr:
    """Refused: how many boxes remain depends on the data.

    Raises:
        ModelError: always.
    """
    del node
    raise ModelError(
        "how many boxes remain depends on the data, and a compiled program's tensors have fixed shapes; "
        "export the model without it, and run it on the outputs"
    )
