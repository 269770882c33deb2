"""Converters of softmax and of normalizations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import Node, is_float, scalar
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant

Array = npt.NDArray[Any]


def softmax(node: Node) -> relax.Expr:
    """Softmax along any axis -> `nn.softmax` along the last one, between permutations."""
    rank, axis = len(node.shape), node.axis(-1)
    if node.dtype != "float32":
        return node.convert_by_tvm()
    if axis == rank - 1:
        return make_call(ops.Softmax(), node.x)
    moved = [a for a in range(rank) if a != axis] + [axis]
    y = node.emit(make_call(ops.Softmax(), node.emit(relax.op.permute_dims(node.x, moved))))
    return relax.op.permute_dims(y, [int(i) for i in np.argsort(moved)])


def layer_normalization(node: Node) -> relax.Expr:
    """LayerNormalization over the last axis by constants -> `nn.layer_norm`; others -> Relax's arithmetic."""
    shape, first = node.shape, node.axis(-1)
    gamma = _row(node.constant(1), shape[-1])
    beta = np.zeros(shape[-1:], "float32") if node.optional(2) is None else _row(node.constant(2), shape[-1])
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if node.result_count > 1:
        raise ModelError("only its first output can be imported, but its mean or deviation is read, too")
    if first == len(shape) - 1 and gamma is not None and beta is not None and gamma.dtype == np.float32:
        return make_call(ops.LayerNorm(epsilon), node.x, make_constant(gamma), make_constant(beta))
    y = _standardized(node, list(range(first, len(shape))), epsilon)
    y = node.emit(relax.op.multiply(y, node.required(1)))
    shift_given = node.optional(2)
    return y if shift_given is None else relax.op.add(y, shift_given)


def _row(value: Array | None, size: int) -> Array | None:
    """Return a scale or shift as a row of values; None if it isn't constant, or differs between rows."""
    if value is None or math.prod(value.shape[:-1]) != 1:
        return None
    return np.broadcast_to(value.reshape(value.shape[-1:]), (size,))


def _standardized(node: Node, axes: list[int], epsilon: float) -> relax.Expr:
    mean = node.emit(relax.op.mean(node.x, axes, keepdims=True))
    centered = node.emit(relax.op.subtract(node.x, mean))
    variance = node.emit(relax.op.mean(node.emit(relax.op.multiply(centered, centered)), axes, keepdims=True))
    deviation = node.emit(relax.op.sqrt(node.emit(relax.op.add(variance, scalar(epsilon, node.dtype)))))
    return node.emit(relax.op.divide(centered, deviation))


def lp_normalization(node: Node) -> relax.Expr:
    """LpNormalization: values divided by the L1 or L2 norm along an axis, or left as they are if it is 0."""
    axis, p = node.axis(-1), int(node.attributes.get("p", 2))
    if p == 1:
        norm = node.emit(relax.op.sum(node.emit(relax.op.abs(node.x)), [axis], keepdims=True))
    else:
        squares = node.emit(relax.op.multiply(node.x, node.x))
        norm = node.emit(relax.op.sqrt(node.emit(relax.op.sum(squares, [axis], keepdims=True))))
    zero, one = scalar(0, node.dtype), scalar(1, node.dtype)
    safe = node.emit(relax.op.where(node.emit(relax.op.equal(norm, zero)), one, norm))
    return relax.op.divide(node.x, safe)


def local_response_normalization(node: Node) -> relax.Expr:
    """LRN: each value divided by a power of the sum of squares over neighbouring channels."""
    size = int(node.attributes["size"])
    alpha, beta, bias = (float(node.attributes.get(k, d)) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    squares = node.emit(relax.op.multiply(node.x, node.x))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    rank, channels = len(node.shape), node.shape[1]
    padded = node.emit(relax.op.nn.pad(squares, [0, 0, before, after] + [0, 0] * (rank - 2), pad_value=0.0))
    total: relax.Expr | None = None
    for i in range(size):
        part = node.emit(relax.op.strided_slice(padded, [1], [i], [i + channels]))
        total = part if total is None else node.emit(relax.op.add(total, part))
    if total is None:
        raise ModelError(f"its size is {size}; it must be at least 1")
    scaled = node.emit(relax.op.multiply(total, scalar(alpha / size, node.dtype)))
    base = node.emit(relax.op.add(scaled, scalar(bias, node.dtype)))
    return relax.op.divide(node.x, node.emit(relax.op.power(base, scalar(beta, node.dtype))))


def hardmax(node: Node) -> relax.Expr:
    """Hardmax: 1 at the first largest value along an axis, 0 elsewhere."""
    axis, rank = node.axis(-1), len(node.shape)
    if not is_float(node.dtype):
        raise ModelError(f"it isn't defined for {node.dtype}")
    first = node.emit(relax.op.argmax(node.x, axis, keepdims=True))
    places = np.arange(node.shape[axis], dtype=tensor_type(first).dtype).reshape([-1] + [1] * (rank - axis - 1))
    return relax.op.astype(node.emit(relax.op.equal(first, make_constant(places))), node.dtype)
