"""Converters of operators that move or repeat values."""

from __future__ import annotations

import numpy as np
from onnx import helper
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import NCHW, NHWC, Node, scalar, take
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant


def identity(node: Node) -> relax.Expr:
    """Identity -> its input."""
    return node.x


def split(node: Node) -> relax.Expr:
    """Split -> one slice for each part, as later passes expect operators with one result."""
    x, count, shape, axis = node.x, node.result_count, node.shape, node.axis(0)
    given = node.checked_constant(1, "the sizes of its parts")
    if given is None:
        part = -(-shape[axis] // count)
        sizes = [min(part, shape[axis] - i * part) for i in range(count)]
    else:
        sizes = [int(s) for s in given]
    ends = [int(e) for e in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    parts = [relax.op.strided_slice(x, [axis], [a], [b]) for a, b in zip(starts, ends, strict=True)]
    return relax.Tuple([node.emit(p) for p in parts])


_MODES = ("edge", "reflect", "wrap")


def pad(node: Node) -> relax.Expr:
    """Pad: of an image's height and width by a constant -> `nn.pad`; others -> `relax.nn.pad`, or `relax.take`."""
    rank = len(node.shape)
    pads = node.checked_constant(1, "its pads")
    axes = node.checked_constant(3, "its axes")
    mode = node.text("mode", "constant")
    if pads is None or (mode != "constant" and mode not in _MODES):
        raise ModelError(f"there is no mode {mode!r}" if pads is not None else "it has no pads")
    numbers = [node.normalized_axis(int(a)) for a in (range(rank) if axes is None else axes)]
    amounts = [int(p) for p in pads]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(numbers):
        before[axis], after[axis] = amounts[i], amounts[i + len(numbers)]
    if mode != "constant":
        return _repeated(node, before, after, mode)
    value = node.constant(2)
    if node.optional(2) is not None and value is None:
        return _padded_with_computed(node, before, after)
    number = 0.0 if value is None else value.reshape(-1)[0].item()
    inner = rank == 4 and not any(before[:2] + after[:2]) and min(before + after) >= 0
    if inner and node.dtype == "float32" and np.isfinite(number):
        operator = ops.Pad(padding=(before[2], before[3], after[2], after[3]), value=float(number))
        y = node.emit(make_call(operator, node.emit(relax.op.permute_dims(node.x, NHWC))))
        return relax.op.permute_dims(y, NCHW)
    return _padded(node, node.x, before, after, number)


def _padded(node: Node, x: relax.Expr, before: list[int], after: list[int], value: float) -> relax.Expr:
    """Return x padded by a constant; negative amounts crop."""
    shape = tensor_type(x).shape
    if min(before + after) < 0:
        starts = [max(-b, 0) for b in before]
        ends = [size - max(-a, 0) for size, a in zip(shape, after, strict=True)]
        if any(s >= e for s, e in zip(starts, ends, strict=True)):
            raise ModelError("its negative pads leave no elements")
        x = node.emit(relax.op.strided_slice(x, list(range(len(shape))), starts, ends))
    width = [max(v, 0) for pair in zip(before, after, strict=True) for v in pair]
    if not any(width):
        return x
    dtype = tensor_type(x).dtype
    if dtype == "bool":
        bytes_ = node.emit(relax.op.nn.pad(node.emit(relax.op.astype(x, "uint8")), width, pad_value=int(value)))
        return relax.op.astype(bytes_, "bool")
    return relax.op.nn.pad(x, width, pad_value=value)


def _padded_with_computed(node: Node, before: list[int], after: list[int]) -> relax.Expr:
    padded = node.emit(_padded(node, node.x, before, after, 0))
    inside = np.zeros(tensor_type(padded).shape, "bool")
    inside[tuple(slice(max(b, 0), n - max(a, 0)) for b, a, n in zip(before, after, inside.shape, strict=True))] = True
    value = node.emit(relax.op.reshape(node.required(2), []))
    return relax.op.where(make_constant(inside), padded, value)


def _repeated(node: Node, before: list[int], after: list[int], mode: str) -> relax.Expr:
    y: relax.Expr = node.x
    for axis, size in enumerate(node.shape):
        b, a = before[axis], after[axis]
        if not (a or b):
            continue
        if size == 0:
            raise ModelError("there is nothing to repeat along an axis without elements")
        indices = np.arange(size)[max(-b, 0) : size - max(-a, 0)]
        indices = np.pad(indices, (max(b, 0), max(a, 0)), mode=mode)  # type: ignore[call-overload]
        y = node.emit(take(y, indices, axis))
    return y


def depth_to_space(node: Node) -> relax.Expr:
    """DepthToSpace -> `nn.depth_to_space`."""
    size, channels = int(node.attributes["blocksize"]), node.shape[1]
    if size < 1 or channels % size**2:
        raise ModelError(f"its {channels} channels can't be divided into blocks of {size} x {size} pixels")
    groups = channels // size**2 if node.text("mode", "DCR") == "CRD" else 1
    y = node.emit(make_call(ops.DepthToSpace((size, size), groups), node.emit(relax.op.permute_dims(node.x, NHWC))))
    return relax.op.permute_dims(y, NCHW)


def space_to_depth(node: Node) -> relax.Expr:
    """SpaceToDepth -> reshapes and a permutation."""
    size = int(node.attributes["blocksize"])
    batch, channels, height, width = node.shape
    if height % size or width % size:
        raise ModelError(f"its image of {height} x {width} pixels can't be divided into blocks of {size} x {size}")
    split_up = [batch, channels, height // size, size, width // size, size]
    order = [0, 1, 3, 5, 2, 4] if node.text("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    moved = node.emit(relax.op.permute_dims(node.emit(relax.op.reshape(node.x, split_up)), order))
    return relax.op.reshape(moved, [batch, channels * size**2, height // size, width // size])


def tile(node: Node) -> relax.Expr:
    """Tile -> `relax.take` along each axis that is repeated."""
    repeats = node.checked_constant(1, "its numbers of repetitions")
    if repeats is None or len(repeats) != len(node.shape):
        raise ModelError("it must have a number of repetitions for each axis")
    y: relax.Expr = node.x
    for axis, count in enumerate(int(r) for r in repeats):
        if count < 1:
            raise ModelError("with 0 repetitions its result has no elements")
        if count > 1:
            y = node.emit(take(y, np.tile(np.arange(node.shape[axis]), count), axis))
    return y


def eye_like(node: Node) -> relax.Expr:
    """EyeLike -> a constant, as only the shape of its input matters."""
    shape, dtype = node.shape, node.attributes.get("dtype")
    name = node.dtype if dtype is None else str(helper.tensor_dtype_to_np_dtype(int(dtype)))
    if len(shape) != 2:
        raise ModelError(f"its input has {len(shape)} dimensions, not 2")
    return make_constant(np.eye(*shape, k=int(node.attributes.get("k", 0)), dtype=name))


def trilu(node: Node) -> relax.Expr:
    """Trilu: a matrix with zeros below or above a diagonal."""
    given = node.checked_constant(1, "the diagonal's number")
    k = 0 if given is None else int(given.reshape(-1)[0])
    rows, columns = node.shape[-2:]
    distance = np.arange(columns) - np.arange(rows)[:, None]
    kept = distance >= k if node.flag("upper", 1) else distance <= k
    return relax.op.where(make_constant(kept), node.x, scalar(0, node.dtype))


def reverse_sequence(node: Node) -> relax.Expr:
    """ReverseSequence, for constant lengths of the sequences."""
    lengths = node.checked_constant(1, "the lengths of its sequences")
    if lengths is None:
        raise ModelError("the lengths of its sequences are missing")
    batch, time = int(node.attributes.get("batch_axis", 1)), int(node.attributes.get("time_axis", 0))
    parts = []
    for i, length in enumerate(int(v) for v in lengths):
        order = np.arange(node.shape[time])
        order[:length] = order[:length][::-1].copy()
        one = node.emit(relax.op.strided_slice(node.x, [batch], [i], [i + 1]))
        parts.append(node.emit(take(one, order, time)))
    return relax.op.concat(parts, batch)
