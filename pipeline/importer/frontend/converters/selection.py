"""Converters of operators that select elements by index, or compute indices of elements.

Negative indices count from the end. Constant indices are checked; computed indices that are out of range are clipped,
so that no memory outside of a tensor is ever read.
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
    """Return the indices of an input, counted from the start and in range.

    Args:
        node: the node.
        index: which of its inputs has the indices.
        extents: the number of elements that each index selects from, broadcast to the shape of the indices.

    Raises:
        ModelError: a constant index is out of range.
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
    """Gather -> `relax.take`."""
    axis = node.axis(0)
    if node.shape[axis] == 0:
        raise ModelError("it selects from an axis without elements")
    return relax.op.take(node.x, _indices_from_start(node, 1, np.array(node.shape[axis])), axis, mode="clip")


def gather_elements(node: Node) -> relax.Expr:
    """GatherElements -> `relax.gather_elements`."""
    axis = node.axis(0)
    return relax.op.gather_elements(node.x, _indices_from_start(node, 1, np.array(node.shape[axis])), axis)


def gather_nd(node: Node) -> relax.Expr:
    """GatherND -> `relax.gather_nd`."""
    batch, length = int(node.attributes.get("batch_dims", 0)), node.input_type(1).shape[-1]
    indices = _indices_from_start(node, 1, np.array(node.shape[batch : batch + length]))
    return relax.op.gather_nd(node.x, indices, batch)


_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def _reduction(node: Node) -> str:
    name = node.text("reduction", "none")
    if name not in _REDUCTIONS:
        raise ModelError(f"there is no reduction {name!r}")
    if node.dtype == "bool":
        raise ModelError("it isn't supported for bool")
    return _REDUCTIONS[name]


def scatter_elements(node: Node) -> relax.Expr:
    """ScatterElements -> `relax.scatter_elements`."""
    axis, reduction = node.axis(0), _reduction(node)
    indices = _indices_from_start(node, 1, np.array(node.shape[axis]))
    if tensor_type(indices).shape == () or 0 in tensor_type(indices).shape:
        raise ModelError("its indices have no elements, or no axes")
    return relax.op.scatter_elements(node.x, indices, node.required(2), axis, reduction)


def scatter_nd(node: Node) -> relax.Expr:
    """ScatterND -> `relax.scatter_nd`."""
    reduction = _reduction(node)
    indices = _indices_from_start(node, 1, np.array(node.shape[: node.input_type(1).shape[-1]]))
    return relax.op.scatter_nd(node.x, indices, node.required(2), reduction)


def one_hot(node: Node) -> relax.Expr:
    """OneHot with a constant depth: for each index a row of the off value, with the on value at the index."""
    depth = node.checked_constant(1, "its depth")
    if depth is None:
        raise ModelError("its depth is missing")
    count, rank = int(depth.reshape(-1)[0]), len(node.shape)
    axis = int(node.attributes.get("axis", -1)) % (rank + 1)
    if count < 1:
        raise ModelError(f"its depth is {count}; it must be at least 1")
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
    """ArgMax: the index of the first largest value along an axis, or of the last with `select_last_index`."""
    return _index_of_extreme(node, relax.op.argmax)


def arg_min(node: Node) -> relax.Expr:
    """ArgMin: the index of the first smallest value along an axis, or of the last with `select_last_index`."""
    return _index_of_extreme(node, relax.op.argmin)


def _index_of_extreme(node: Node, find: Any) -> relax.Expr:
    axis, keepdims = node.axis(0), node.flag("keepdims", 1)
    size = node.shape[axis]
    if not node.flag("select_last_index"):
        return find(node.x, axis, keepdims)
    turned = node.emit(take(node.x, np.arange(size)[::-1], axis))
    return relax.op.subtract(scalar(size - 1, "int64"), node.emit(find(turned, axis, keepdims)))


def cumulative_sum(node: Node) -> relax.Expr:
    """CumSum -> `relax.cumsum`, of the reversed axis with `reverse`."""
    given = node.checked_constant(1, "its axis")
    axis = node.normalized_axis(0 if given is None else int(given.reshape(-1)[0]))
    backwards = np.arange(node.shape[axis])[::-1]
    x = node.emit(take(node.x, backwards, axis)) if node.flag("reverse") else node.x
    y = node.emit(relax.op.cumsum(x, axis, exclusive=node.flag("exclusive")))
    return take(y, backwards, axis) if node.flag("reverse") else y


def top_k(node: Node) -> relax.Expr:
    """TopK with a constant K -> `relax.topk`; of equal values, the first one comes first."""
    given = node.checked_constant(1, "its K")
    axis = node.axis(-1)
    count = 0 if given is None else int(given.reshape(-1)[0])
    if not 1 <= count <= node.shape[axis]:
        raise ModelError(f"its K is {count}; it must be from 1 to the size of the axis, {node.shape[axis]}")
    return relax.op.topk(node.x, count, axis, "both", node.flag("largest", 1), "int64")


def non_max_suppression(node: Node) -> relax.Expr:
    """NonMaxSuppression, which can't be imported.

    Raises:
        ModelError: always.
    """
    del node
    raise ModelError(
        "the number of boxes that remain depends on the data, but a compiled program's tensors have fixed shapes; "
        "export the model without this node, and apply it to the outputs"
    )
