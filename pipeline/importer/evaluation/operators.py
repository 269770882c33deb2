"""Corrections of ONNX's reference implementation: operators that it computes wrongly in some forms, or lacks.

Each class follows the operator's definition in the ONNX standard, and replaces the reference implementation's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as OnnxMaxPool
from onnx.reference.ops.op_pad import Pad_18 as OnnxPad
from onnx.reference.ops.op_roi_align import RoiAlign as OnnxRoiAlign

from pipeline.importer.evaluation.recurrent import GRU, LSTM, RNN
from pipeline.importer.evaluation.resize import Resize
from pipeline.importer.evaluation.sampling import GridSample

Array = npt.NDArray[Any]


class GlobalMaxPool(OpRun):
    """Global maximum pooling of any rank; ONNX's own takes images only."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class GlobalLpPool(OpRun):
    """Global Lp pooling, which ONNX's reference implementation lacks."""

    op_domain = ""

    def _run(self, x: Array, p: int) -> tuple[Array]:
        total = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
        return ((total ** (1 / p)).astype(x.dtype),)


class LRN(OpRun):
    """Local response normalization; ONNX's own mistakes the batch size for the number of channels."""

    op_domain = ""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before, after = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
        padded = np.pad(x**2, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
        total = sliding_window_view(padded, size, axis=1).sum(axis=-1)
        return ((x / (bias + alpha / size * total) ** beta).astype(x.dtype),)


class GatherElements(OpRun):
    """GatherElements for any shapes; ONNX's own requires indices of the data's shape, and a short axis."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int) -> tuple[Array]:
        axis %= data.ndim
        read = tuple(slice(None if k == axis else size) for k, size in enumerate(indices.shape))
        return (np.take_along_axis(data[read], indices, axis),)


class MaxPool(OnnxMaxPool):
    """Maximum pooling of any rank, padding and rounding. Where indices are asked for, ONNX's own is used."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        if len(self.onnx_node.output) > 1:
            own: tuple[Array, ...] = super()._run(x, **attributes)
            return own
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        windows = _windows(x, attributes, lowest)
        return (windows.max(axis=tuple(range(x.ndim, windows.ndim))).astype(x.dtype),)


class AveragePool(OpRun):
    """Average pooling of any rank, padding, rounding and dilation."""

    op_domain = ""

    def _run(self, x: Array, count_include_pad: int, **attributes: Any) -> tuple[Array]:
        windows = _windows(x, attributes, 0)
        axes = tuple(range(x.ndim, windows.ndim))
        counted = np.ones(x.shape[2:], "int64")[None, None]
        inside = _windows(counted, attributes, 0, within_padding=1 if count_include_pad else 0).sum(axis=axes)
        return ((windows.sum(axis=axes) / inside).astype(x.dtype),)


class LpPool(OpRun):
    """Lp pooling of any rank, padding, rounding and dilation."""

    op_domain = ""

    def _run(self, x: Array, p: int, **attributes: Any) -> tuple[Array]:
        windows = np.abs(_windows(x, attributes, 0)) ** p
        return ((windows.sum(axis=tuple(range(x.ndim, windows.ndim))) ** (1 / p)).astype(x.dtype),)


class LpNormalization(OpRun):
    """Lp normalization; ONNX's own doesn't take absolute values."""

    op_domain = ""

    def _run(self, x: Array, axis: int, p: int) -> tuple[Array]:
        norm = np.linalg.norm(x, p, axis, keepdims=True)
        return (np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype),)


class Pad(OnnxPad):
    """Padding that crops where pads are negative, which ONNX's own can't do."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        pads: Array,
        value: Array | None = None,
        axes: Array | None = None,
        mode: str | None = None,
    ) -> tuple[Array]:
        numbers = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
        cut = [slice(None)] * x.ndim
        for number, before, after in zip(numbers, *np.split(np.minimum(pads, 0), 2), strict=True):
            cut[number] = slice(-before, x.shape[number] + after)
        padded: tuple[Array] = super()._run(x[tuple(cut)], np.maximum(pads, 0), value, axes=axes, mode=mode)
        return padded


class RoiAlign(OnnxRoiAlign):
    """RoiAlign whose coordinates before operator set 16 have no offset of half a pixel; ONNX's own adds one."""

    op_domain = ""

    def _run(self, *inputs: Array, **attributes: Any) -> tuple[Array]:
        if self.run_params["opsets"][""] < 16:
            attributes["coordinate_transformation_mode"] = "output_half_pixel"
        aligned: tuple[Array] = super()._run(*inputs, **attributes)
        return aligned


class ConvTranspose(OpRun):
    """Transposed convolution with groups and `output_shape`; ONNX's own confuses the channels of groups."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        count, groups = x.ndim - 2, attributes.get("group") or 1
        axes = range(count)
        strides, dilations = (attributes.get(name) or [1] * count for name in ("strides", "dilations"))
        extra = attributes.get("output_padding") or [0] * count
        full = [strides[k] * (x.shape[2 + k] - 1) + dilations[k] * (w.shape[2 + k] - 1) + 1 + extra[k] for k in axes]
        begin, sizes = _result_window(full, x.shape[2:], strides, attributes)
        outputs = w.shape[1] * groups
        room = [max(f, start + size) for f, start, size in zip(full, begin, sizes, strict=True)]
        y = np.zeros((x.shape[0], outputs, *room), np.result_type(x.dtype, "float64"))
        parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
        weights = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)
        for tap in np.ndindex(*w.shape[2:]):
            # One position of the kernel contributes to each pixel that it reaches.
            product = weights[(..., *tap)] @ parts
            where = [
                slice(t * d, t * d + s * (size - 1) + 1, s)
                for t, d, s, size in zip(tap, dilations, strides, x.shape[2:], strict=True)
            ]
            y[(slice(None), slice(None), *where)] += product.reshape(x.shape[0], outputs, *x.shape[2:])
        kept = [slice(start, start + size) for start, size in zip(begin, sizes, strict=True)]
        y = y[(slice(None), slice(None), *kept)]
        return ((y if b is None else y + b.reshape(-1, *[1] * count)).astype(x.dtype),)


def _result_window(
    full: Sequence[int], inputs: Sequence[int], strides: Sequence[int], attributes: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Return the begin and size, along each axis, of a transposed convolution's result within the uncropped one.

    Args:
        full: sizes of the uncropped result.
        inputs: sizes of the input.
        strides: the convolution's strides.
        attributes: the convolution's attributes.
    """
    auto, wanted = attributes.get("auto_pad") or "NOTSET", attributes.get("output_shape")
    axes = range(len(full))
    if not wanted and auto in ("NOTSET", "VALID"):
        pads = (attributes.get("pads") if auto == "NOTSET" else None) or [0] * (2 * len(full))
        return list(pads[: len(full)]), [full[k] - pads[k] - pads[k + len(full)] for k in axes]
    sizes = list(wanted[-len(full) :]) if wanted else [i * s for i, s in zip(inputs, strides, strict=True)]
    totals = [max(full[k] - sizes[k], 0) for k in axes]
    return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals], sizes


CORRECTED = (
    AveragePool,
    ConvTranspose,
    GRU,
    GatherElements,
    GlobalLpPool,
    GlobalMaxPool,
    GridSample,
    LRN,
    LSTM,
    LpNormalization,
    LpPool,
    MaxPool,
    Pad,
    RNN,
    Resize,
    RoiAlign,
)


def _windows(x: Array, attributes: dict[str, Any], fill: float, within_padding: float | None = None) -> Array:
    """Return the windows of a pool: [N, C, *outputs, *kernel].

    Args:
        x: [N, C, *sizes].
        attributes: the pool's attributes.
        fill: value of elements outside of x.
        within_padding: value of elements in the padding, if it differs from that of elements beyond the padding.
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
    """Return the padding (before, after) of each axis, and the number of outputs along each axis."""
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
            # Rounding up must not add a window that begins in the padding after the axis.
            if (count - 1) * stride >= size + pads[-1][0]:
                count -= 1
        outputs.append(count)
    return pads, outputs
