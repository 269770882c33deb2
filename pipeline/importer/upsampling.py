"""Converters of ONNX operators that make more pixels of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax

from pipeline.dialect import attributes as op
from pipeline.dialect.dataflow import constant, make_constant
from pipeline.dialect.operators import make_call, tensor_type
from pipeline.importer.fallback import NCHW, NHWC, Fallback, Inputs


class ConvTranspose(Fallback):
    """1-D and 2-D transposed convolution with constant weights -> `nn.conv2d_transpose`."""

    op_type = "ConvTranspose"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        weight = constant(inputs[1])
        bias = np.zeros(1, "float32") if inputs[2] is None else constant(inputs[2])
        x = inputs[0]
        if weight is None or bias is None or weight.ndim not in (3, 4) or weight.dtype != np.float32:
            return cls._stock(bb, inputs, attr, params)
        shape = tensor_type(x).shape
        strides, dilation, padding, output_padding = _transposed_geometry(attr, shape[2:], weight.shape[2:])
        if weight.ndim == 3:
            x = bb.normalize(relax.op.expand_dims(x, 2))
            weight, strides, dilation = weight[:, :, None], (1, *strides), (1, *dilation)
            padding, output_padding = (0, padding[0], 0, padding[1]), (0, *output_padding)
        groups = attr.get("group", 1)
        attrs = op.Conv2dTranspose(strides, padding, output_padding, dilation, groups)
        inputs_per_group, (out, *kernel) = weight.shape[0] // groups, weight.shape[1:]
        grouped = weight.reshape(groups, inputs_per_group, out, *kernel).transpose(0, 2, 3, 4, 1)
        ohwi = make_constant(grouped.reshape(groups * out, *kernel, inputs_per_group))
        bias = make_constant(np.broadcast_to(bias, (groups * out,)).astype("float32"))
        y = make_call(attrs, bb.emit(relax.op.permute_dims(x, NHWC)), ohwi, bias)
        y = relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)
        return relax.op.squeeze(bb.emit(y), [2]) if len(shape) == 3 else y


def _transposed_geometry(attr: Mapping[str, Any], sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Any, ...]:
    """Return a transposed convolution's strides, dilation, padding and output padding, `auto_pad` worked out."""
    axes = range(len(sizes))
    strides, dilation = (tuple(attr.get(name, (1,) * len(sizes))) for name in ("strides", "dilations"))
    extra = list(attr.get("output_padding", (0,) * len(sizes)))
    wanted = attr.get("output_shape")
    mode = attr.get("auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = attr.get("pads") if mode == "NOTSET" else None
        return strides, dilation, tuple(pads or (0,) * (2 * len(sizes))), tuple(extra)
    wanted = [sizes[i] * strides[i] for i in axes] if wanted is None else wanted[-len(sizes) :]
    full = [strides[i] * (sizes[i] - 1) + dilation[i] * (kernel[i] - 1) + 1 + extra[i] for i in axes]
    totals = [max(full[i] - wanted[i], 0) for i in axes]
    smaller = [t // 2 for t in totals]
    larger = [t - s for t, s in zip(totals, smaller, strict=True)]
    # A result that is larger than the full one has zeros, and the bias, at its ends.
    extra = [extra[i] + max(wanted[i] - full[i], 0) for i in axes]
    padding = (*smaller, *larger) if mode == "SAME_UPPER" else (*larger, *smaller)
    return strides, dilation, padding, tuple(extra)


class DepthToSpace(Fallback):
    """Channels to pixels -> `nn.depth_to_space`."""

    op_type = "DepthToSpace"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        del params
        size, mode = attr["blocksize"], attr.get("mode", b"DCR")
        channels = tensor_type(inputs[0]).shape[1]
        groups = channels // size**2 if mode in (b"CRD", "CRD") else 1
        y = make_call(op.DepthToSpace((size, size), groups), bb.emit(relax.op.permute_dims(inputs[0], NHWC)))
        return relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)


class Resize(Fallback):
    """Bilinear resizing of an image's height and width -> `nn.resize_bilinear`."""

    op_type = "Resize"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        x, shape = inputs[0], tensor_type(inputs[0]).shape
        places = POSITIONS.get(_text(attr, "coordinate_transformation_mode", "half_pixel"))
        plain = _text(attr, "mode", "nearest") == "linear" and not attr.get("antialias") and "axes" not in attr
        plain = plain and _text(attr, "keep_aspect_ratio_policy", "stretch") == "stretch"
        if not plain or places is None or len(shape) != 4 or tensor_type(x).dtype != "float32":
            return cls._stock(bb, inputs, attr, params)
        given = [None if i is None else constant(i) for i in [*inputs, None, None, None][2:4]]
        scales, sizes = (None if value is None or value.size != 4 else value for value in given)
        if scales is None and sizes is not None:
            scales = sizes / np.array(shape)
        if scales is None or (scales[:2] != 1).any():
            return cls._stock(bb, inputs, attr, params)
        # In float32, as others do it: 10 pixels times 0.7 are 7.
        out = [int(v) for v in (scales * np.array(shape, "float32") if sizes is None else sizes)[2:]]
        starts, steps = zip(*(places(shape[2 + i], out[i], float(scales[2 + i])) for i in range(2)), strict=True)
        attrs = op.ResizeBilinear((out[0], out[1]), starts, steps)
        y = make_call(attrs, bb.emit(relax.op.permute_dims(x, NHWC)))
        return relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)


def _text(attr: Mapping[str, Any], name: str, default: str) -> str:
    value = attr.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _half_pixel(size: int, out: int, scale: float) -> tuple[float, float]:
    del size, out
    return 0.5 / scale - 0.5, 1 / scale


def _align_corners(size: int, out: int, scale: float) -> tuple[float, float]:
    del scale
    return 0.0, (size - 1) / (out - 1) if out > 1 else 0.0


POSITIONS: Mapping[str, Callable[[int, int, float], tuple[float, float]]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": lambda size, out, scale: _half_pixel(size, out, scale) if out > 1 else (0.0, 0.0),
    "align_corners": _align_corners,
    "asymmetric": lambda size, out, scale: (0.0, 1 / scale),
}
"""Coordinate mode -> from pixels of x, pixels of the result and scale to where its first pixel lies, and to a step."""
