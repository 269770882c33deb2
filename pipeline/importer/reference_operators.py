"""Operators that ONNX's reference implementation computes wrongly in some forms, or not at all.

Each follows the operator's text in the standard; `evaluate` puts them in place of the reference implementation's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as StockMaxPool
from onnx.reference.ops.op_resize import Resize as StockResize

Array = npt.NDArray[Any]


class GlobalMaxPool(OpRun):
    """Of any rank; the stock one is for images only."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """There is no stock one."""

    op_domain = ""

    def _run(self, x: Array, p: int) -> tuple[Array]:
        total = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
        return ((total ** (1 / p)).astype(x.dtype),)


class LRN(OpRun):
    """For every channel; the stock one counts channels by the batch."""

    op_domain = ""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before, after = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
        padded = np.pad(x**2, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
        total = sliding_window_view(padded, size, axis=1).sum(axis=-1)
        return ((x / (bias + alpha / size * total) ** beta).astype(x.dtype),)


class GatherElements(OpRun):
    """Of any size; the stock one wants indices for all of the data, and a short axis."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int) -> tuple[Array]:
        axis %= data.ndim
        read = tuple(slice(None if k == axis else size) for k, size in enumerate(indices.shape))
        return (np.take_along_axis(data[read], indices, axis),)


class MaxPool(StockMaxPool):
    """Of any rank, padding and rounding; the indices are the stock one's."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        if len(self.onnx_node.output) > 1:
            stock: tuple[Array, ...] = super()._run(x, **attributes)
            return stock
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        windows = _windows(x, attributes, lowest)
        return (windows.max(axis=tuple(range(x.ndim, windows.ndim))).astype(x.dtype),)


class AveragePool(OpRun):
    """Of any rank, padding, rounding and dilation."""

    op_domain = ""

    def _run(self, x: Array, count_include_pad: int, **attributes: Any) -> tuple[Array]:
        windows = _windows(x, attributes, 0)
        axes = tuple(range(x.ndim, windows.ndim))
        counted = np.ones(x.shape[2:], "int64")[None, None]
        inside = _windows(counted, attributes, 0, within_padding=1 if count_include_pad else 0).sum(axis=axes)
        return ((windows.sum(axis=axes) / inside).astype(x.dtype),)


class LpPool(OpRun):
    """Of any rank, padding, rounding and dilation."""

    op_domain = ""

    def _run(self, x: Array, p: int, **attributes: Any) -> tuple[Array]:
        windows = np.abs(_windows(x, attributes, 0)) ** p
        return ((windows.sum(axis=tuple(range(x.ndim, windows.ndim))) ** (1 / p)).astype(x.dtype),)


class Resize(StockResize):
    """With places of pixels in float32, as ONNX Runtime and others have them: where two are as near, it matters."""

    op_domain = ""

    def _run(
        self, x: Array, roi: Array | None, scales: Array | None = None, sizes: Array | None = None, **attributes: Any
    ) -> tuple[Array]:
        mode = attributes["coordinate_transformation_mode"]
        if (
            attributes["mode"] != "nearest"
            or mode not in _PLACES
            or attributes["keep_aspect_ratio_policy"] not in (None, "stretch")
        ):
            stock: tuple[Array] = super()._run(x, roi, scales, sizes, **attributes)
            return stock
        axes = range(x.ndim) if attributes["axes"] is None else [int(a) % x.ndim for a in attributes["axes"]]
        for k, axis in enumerate(axes):
            size = x.shape[axis]
            scale = np.float32(sizes[k] / size if sizes is not None else scales[k] if scales is not None else 1)
            count = int(sizes[k]) if sizes is not None else int(np.float32(size) * scale)
            if count == size and scale == 1:
                continue
            places = _PLACES[mode](np.arange(count, dtype="float32"), scale, size, count)
            x = x.take(np.clip(_ROUNDINGS[attributes["nearest_mode"]](places).astype("int64"), 0, size - 1), axis)
        return (x,)


def _half_pixel(index: Array, scale: Any, size: int, count: int) -> Array:
    del size, count
    half = np.float32(0.5)
    return np.asarray((index + half) / scale - half)


def _pytorch_half_pixel(index: Array, scale: Any, size: int, count: int) -> Array:
    return _half_pixel(index, scale, size, count) if count > 1 else np.zeros_like(index)


def _align_corners(index: Array, scale: Any, size: int, count: int) -> Array:
    del scale
    return index * np.float32(size - 1) / np.float32(count - 1) if count > 1 else np.zeros_like(index)


_PLACES: Mapping[str, Callable[[Array, Any, int, int], Array]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": lambda index, scale, size, count: index / scale,
}

_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - np.float32(0.5)),
    "round_prefer_ceil": lambda places: np.floor(places + np.float32(0.5)),
}

CORRECTED = (AveragePool, GatherElements, GlobalLpPool, GlobalMaxPool, LRN, LpPool, MaxPool, Resize)


def _windows(x: Array, attributes: dict[str, Any], fill: float, within_padding: float | None = None) -> Array:
    """Return what each output of a pool sees: [N, C, *outputs, *kernel].

    Args:
        x: [N, C, *sizes].
        attributes: the pool's.
        fill: what stands outside.
        within_padding: what stands in the padding, if that is something else than behind it.
    """
    kernel: Sequence[int] = attributes["kernel_shape"]
    strides = attributes.get("strides") or [1] * len(kernel)
    dilations = attributes.get("dilations") or [1] * len(kernel)
    pads, outputs = _padding(x.shape[2:], kernel, strides, dilations, attributes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if within_padding is not None:
        x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=within_padding)
        pads = [(0, 0)] * len(pads)
    missing = [
        max(0, (o - 1) * s + r - size - sum(p))
        for o, s, r, size, p in zip(outputs, strides, reach, x.shape[2:], pads, strict=True)
    ]
    dtype = np.result_type(x.dtype, "float64") if x.dtype.kind == "f" and np.isinf(fill) else x.dtype
    around = [(0, 0), (0, 0), *((b, e + m) for (b, e), m in zip(pads, missing, strict=True))]
    padded = np.pad(x.astype(dtype), around, constant_values=fill)
    windows = sliding_window_view(padded, reach, axis=tuple(range(2, x.ndim)))
    first = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(outputs, strides, strict=True))
    taps = tuple(slice(None, None, d) for d in dilations)
    return windows[(slice(None), slice(None), *first, *taps)]


def _padding(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    attributes: dict[str, Any],
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the padding of each axis, and how many outputs it has."""
    auto = attributes.get("auto_pad") or "NOTSET"
    given = attributes.get("pads") or [0] * (2 * len(sizes))
    rounded = math.ceil if attributes.get("ceil_mode") else math.floor
    pads, outputs = [], []
    for k, (size, window, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        reach = (window - 1) * dilation + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            count = math.ceil(size / stride)
            total = max(0, (count - 1) * stride + reach - size)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        else:
            pads.append((0, 0) if auto == "VALID" else (given[k], given[k + len(sizes)]))
            count = rounded((size + sum(pads[-1]) - reach) / stride) + 1
            # A last window that would begin behind the image and its padding isn't one.
            if (count - 1) * stride >= size + pads[-1][0]:
                count -= 1
        outputs.append(count)
    return pads, outputs
