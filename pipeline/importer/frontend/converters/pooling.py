"""Converters of pooling, and of its inverse.

Pools of images, and of signals as images of height 1, become operators that can be quantized, if there is one. All
other pools gather the elements of each window by constant indices, axis by axis, and reduce them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import NCHW, NHWC, Array, Node, integers, is_float, scalar, take
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant


@dataclass(frozen=True)
class Windows:
    """The windows of a pool along one axis.

    Attributes:
        size: number of elements of the axis.
        out: number of windows.
        kernel: number of elements of a window.
        stride: distance of windows.
        dilation: distance of a window's elements.
        before: elements of padding before the axis.
        after: elements of padding after the axis, as the node has them.
    """

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def positions(self) -> Array:
        """Indices of the windows' elements, including those in the padding: [windows, kernel]."""
        starts = np.arange(self.out) * self.stride - self.before
        return np.asarray(starts[:, None] + np.arange(self.kernel) * self.dilation)

    @property
    def padding_after(self) -> int:
        """Elements of padding after the axis that the last window needs."""
        return max(int(self.positions[-1, -1]) - self.size + 1, 0)

    def element_counts(self, padding: bool) -> Array:
        """Return the number of elements in each window; those in the node's padding count if `padding` is true."""
        low, high = (-self.before, self.size + self.after) if padding else (0, self.size)
        return np.asarray(((self.positions >= low) & (self.positions < high)).sum(axis=1))


def same_padding(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Return a node's pads with `auto_pad` resolved: those before each spatial axis, then those after.

    Args:
        node: the node.
        sizes: spatial sizes of the input.
        kernel: spatial sizes of the window.
    """
    count = len(sizes)
    mode = node.text("auto_pad", "NOTSET")
    if mode == "VALID":
        return (0,) * (2 * count)
    if mode == "NOTSET":
        return node.integers("pads", (0,) * (2 * count))
    strides, dilations = (node.integers(name, (1,) * count) for name in ("strides", "dilations"))
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else large)
    return (*begins, *ends)


def _windows(node: Node) -> list[Windows]:
    sizes, kernel = node.shape[2:], node.integers("kernel_shape", ())
    count = len(sizes)
    if len(kernel) != count:
        raise ModelError(f"its windows have {len(kernel)} dimensions, but its input has {count}")
    pads = same_padding(node, sizes, kernel)
    strides, dilations = (node.integers(name, (1,) * count) for name in ("strides", "dilations"))
    found = []
    for i, size in enumerate(sizes):
        span = size + pads[i] + pads[i + count] - dilations[i] * (kernel[i] - 1) - 1
        out = (math.ceil if node.flag("ceil_mode") else math.floor)(span / strides[i]) + 1
        if node.flag("ceil_mode") and (out - 1) * strides[i] >= size + pads[i]:
            # A window must not begin in the padding after the image (ONNX follows PyTorch here).
            out -= 1
        if out < 1:
            raise ModelError(f"its window of {kernel[i]} doesn't fit into {size} elements and their padding")
        found.append(Windows(size, out, kernel[i], strides[i], dilations[i], pads[i], pads[i + count]))
    return found


def _as_image(node: Node, windows: list[Windows]) -> tuple[relax.Expr, list[Windows]]:
    """Return the input, an image or a signal as an image of height 1, in NHWC, with the windows along both axes."""
    x = node.x
    if len(windows) == 1:
        x, windows = node.emit(relax.op.expand_dims(x, 2)), [Windows(1, 1, 1, 1, 1, 0, 0), *windows]
    return node.emit(relax.op.permute_dims(x, NHWC)), windows


def _from_image(node: Node, y: relax.Expr) -> relax.Expr:
    y = node.emit(relax.op.permute_dims(node.emit(y), NCHW))
    return relax.op.squeeze(y, [2]) if len(node.shape) == 3 else y


def max_pool(node: Node) -> relax.Expr:
    """MaxPool of signals and images -> `nn.max_pool2d`; others, and those with indices -> gathered windows."""
    windows = _windows(node)
    if node.result_count > 1:
        return _max_pool_with_indices(node, windows)
    if len(windows) > 2 or node.dtype != "float32":
        return relax.op.max(_gathered(node, node.x, windows, _lowest(node.dtype)), [-1])
    x, (rows, columns) = _as_image(node, windows)
    operator = ops.MaxPool2d(
        pool_size=(rows.kernel, columns.kernel),
        strides=(rows.stride, columns.stride),
        padding=(rows.before, columns.before, rows.padding_after, columns.padding_after),
        dilation=(rows.dilation, columns.dilation),
    )
    return _from_image(node, _cropped(node, make_call(operator, x), rows.out, columns.out))


def _cropped(node: Node, y: relax.Expr, rows: int, columns: int) -> relax.Expr:
    shape = tensor_type(node.emit(y)).shape
    return y if shape[1:3] == (rows, columns) else relax.op.strided_slice(y, [1, 2], [0, 0], [rows, columns])


def _gathered(node: Node, x: relax.Expr, windows: list[Windows], padding: float) -> relax.Expr:
    """Return the windows of x: [N, C, windows along each axis ..., elements of a window]."""
    width = [0, 0, 0, 0, *(v for w in windows for v in (w.before, w.padding_after))]
    if any(width):
        x = node.emit(relax.op.nn.pad(x, width, pad_value=padding))
    for i, w in enumerate(windows):
        x = node.emit(take(x, (w.positions + w.before).reshape(-1), 2 + i))
    batch, channels = tensor_type(x).shape[:2]
    outs, kernels = [w.out for w in windows], [w.kernel for w in windows]
    x = node.emit(relax.op.reshape(x, [batch, channels, *(v for w in windows for v in (w.out, w.kernel))]))
    count = len(windows)
    x = node.emit(relax.op.permute_dims(x, [0, 1, *range(2, 2 + 2 * count, 2), *range(3, 2 + 2 * count, 2)]))
    return node.emit(relax.op.reshape(x, [batch, channels, *outs, math.prod(kernels)]))


def _max_pool_with_indices(node: Node, windows: list[Windows]) -> relax.Expr:
    """MaxPool with its second output: indices into the flattened input, column-major with `storage_order` 1."""
    gathered = _gathered(node, node.x, windows, _lowest(node.dtype))
    shape = tensor_type(gathered).shape
    count, last = len(windows), len(shape) - 1
    # By how much the index grows with each step along an axis of the image.
    sizes = [w.size for w in windows]
    columns_first = node.flag("storage_order")
    steps = [math.prod(sizes[:i] if columns_first else sizes[i + 1 :]) for i in range(count)]
    grids = np.meshgrid(*(w.positions.reshape(-1) * s for w, s in zip(windows, steps, strict=True)), indexing="ij")
    flat = np.sum(grids, axis=0).reshape([v for w in windows for v in (w.out, w.kernel)])
    table = flat.transpose([*range(0, 2 * count, 2), *range(1, 2 * count, 2)]).reshape(-1)
    rows = np.arange(math.prod(shape[2:last])).reshape(1, 1, *shape[2:last], 1) * shape[last]
    images = np.arange(shape[0] * shape[1]).reshape(*shape[:2], *[1] * (count + 1)) * math.prod(sizes)
    best = node.emit(relax.op.argmax(gathered, last, keepdims=True))
    chosen = node.emit(relax.op.add(best, integers(rows)))
    positions = node.emit(relax.op.take(integers(table), chosen, 0, mode="clip"))
    positions = node.emit(relax.op.squeeze(node.emit(relax.op.add(positions, integers(images))), [last]))
    return relax.Tuple([node.emit(relax.op.max(gathered, [last])), positions])


def _lowest(dtype: str) -> float:
    return float("-inf") if is_float(dtype) else int(np.iinfo(dtype).min)


def average_pool(node: Node) -> relax.Expr:
    """AveragePool of signals and images without dilation -> `relax.nn.avg_pool2d`; others -> gathered windows."""
    windows = _windows(node)
    padding = node.flag("count_include_pad")
    if len(windows) > 2 or node.dtype != "float32" or not all(_is_plain(w, padding) for w in windows):
        counted = np.ones((1, 1) + (1,) * len(windows))
        for i, w in enumerate(windows):
            counted = counted * w.element_counts(padding).reshape(
                [-1 if j == i + 2 else 1 for j in range(2 + len(windows))]
            )
        sums = node.emit(relax.op.sum(_gathered(node, node.x, windows, 0.0), [-1]))
        return relax.op.multiply(sums, make_constant((1 / np.maximum(counted, 1)).astype(node.dtype)))
    x, (rows, columns) = _as_image(node, windows)
    y = relax.op.nn.avg_pool2d(
        x,
        (rows.kernel, columns.kernel),
        (rows.stride, columns.stride),
        (rows.before, columns.before, rows.padding_after, columns.padding_after),
        count_include_pad=padding,
        layout="NHWC",
    )
    return _from_image(node, _cropped(node, y, rows.out, columns.out))


def _is_plain(windows: Windows, padding: bool) -> bool:
    """Return whether Relax's pool, with `padding_after` as its padding, divides by the same numbers of elements."""
    asked = not padding or windows.padding_after <= windows.after
    return windows.dilation == 1 and asked and bool(windows.element_counts(False).all())


def lp_pool(node: Node) -> relax.Expr:
    """LpPool: the p-norm of each window."""
    windows, p = _windows(node), float(node.attributes.get("p", 2))
    gathered = _gathered(node, node.emit(relax.op.abs(node.x)), windows, 0.0)
    return _norm(node, gathered, [len(tensor_type(gathered).shape) - 1], p, keepdims=False)


def global_lp_pool(node: Node) -> relax.Expr:
    """GlobalLpPool: the p-norm over all spatial axes."""
    p = float(node.attributes.get("p", 2))
    return _norm(node, node.emit(relax.op.abs(node.x)), list(range(2, len(node.shape))), p, keepdims=True)


def _norm(node: Node, magnitudes: relax.Expr, axes: list[int], p: float, keepdims: bool) -> relax.Expr:
    dtype = tensor_type(magnitudes).dtype
    if p == 1:
        return relax.op.sum(magnitudes, axes, keepdims)
    power = relax.op.multiply(magnitudes, magnitudes) if p == 2 else relax.op.power(magnitudes, scalar(p, dtype))
    total = node.emit(relax.op.sum(node.emit(power), axes, keepdims))
    return relax.op.sqrt(total) if p == 2 else relax.op.power(total, scalar(1 / p, dtype))


def global_average_pool(node: Node) -> relax.Expr:
    """GlobalAveragePool -> the mean over all spatial axes."""
    return relax.op.mean(node.x, list(range(2, len(node.shape))), keepdims=True)


def max_unpool(node: Node) -> relax.Expr:
    """MaxUnpool: values at the indices that MaxPool returned, zeros elsewhere."""
    kernel = node.integers("kernel_shape", ())
    count = len(kernel)
    strides, pads = node.integers("strides", (1,) * count), node.integers("pads", (0,) * (2 * count))
    natural = [(size - 1) * strides[i] + kernel[i] - pads[i] - pads[i + count] for i, size in enumerate(node.shape[2:])]
    wanted = node.checked_constant(2, "the sizes of the result")
    shape = [*node.shape[:2], *natural]
    if wanted is not None and [int(v) for v in wanted] != shape:
        # For other shapes, ONNX's own test and ONNX Runtime disagree.
        raise ModelError(
            f"its output_shape is {wanted.tolist()}, for which runtimes give different results; use {shape}"
        )
    zeros = make_constant(np.zeros(math.prod(shape), node.dtype))
    positions = node.emit(relax.op.reshape(node.required(1), [-1]))
    values = node.emit(relax.op.reshape(node.x, [-1]))
    flat = node.emit(relax.op.scatter_elements(zeros, positions, values, axis=0))
    return relax.op.reshape(flat, shape)
