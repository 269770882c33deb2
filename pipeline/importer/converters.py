"""Our own ONNX converters, used before TVM's.

Most exist because TVM's gives plain TIR (`emit_te`), which no pass can read, or a form that later passes would only
have to undo. Convolutions and pools come out in NHWC between two permutations; `layout` moves those out of the way.

To add one: a class with `_impl_vN` for the first operator set N whose rules it follows, and a row in `CONVERTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend as tvm_onnx

from pipeline.dialect import attributes as op
from pipeline.dialect.dataflow import constant, make_constant
from pipeline.dialect.operators import make_call, tensor_type
from pipeline.importer.fallback import NCHW, NHWC, Fallback, Inputs
from pipeline.importer.upsampling import ConvTranspose, DepthToSpace, Resize


def _padding(attr: Mapping[str, Any], sizes: Sequence[int], kernel: Sequence[int]) -> Any:
    """Return ONNX pads (all begins, then all ends) with `auto_pad` worked out for the input's spatial `sizes`."""
    mode = attr.get("auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode == "VALID":
        return (0,) * (2 * len(sizes))
    if mode == "NOTSET":
        return tuple(attr.get("pads", (0,) * (2 * len(sizes))))
    strides = attr.get("strides", (1,) * len(sizes))
    dilations = attr.get("dilations", (1,) * len(sizes))
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else large)
    return (*begins, *ends)


class Conv(Fallback):
    """1-D and 2-D convolution with constant weights -> `nn.conv2d`; a 1-D signal is an image of height 1."""

    op_type = "Conv"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        weight = constant(inputs[1])
        bias = np.zeros(1, "float32") if inputs[2] is None else constant(inputs[2])
        x = inputs[0]
        if weight is None or bias is None or weight.ndim not in (3, 4) or weight.dtype != np.float32:
            return cls._stock(bb, inputs, attr, params)
        shape = tensor_type(x).shape
        pads = _padding(attr, shape[2:], weight.shape[2:])
        strides = tuple(attr.get("strides", (1,) * (weight.ndim - 2)))
        dilations = tuple(attr.get("dilations", (1,) * (weight.ndim - 2)))
        if weight.ndim == 3:
            x = bb.normalize(relax.op.expand_dims(x, 2))
            weight, strides, dilations = weight[:, :, None], (1, *strides), (1, *dilations)
            pads = (0, pads[0], 0, pads[1])
        attrs = op.Conv2d(strides=strides, padding=pads, dilation=dilations, groups=attr.get("group", 1))
        bias = np.broadcast_to(bias, weight.shape[:1]).astype("float32")
        ohwi = make_constant(weight.transpose(0, 2, 3, 1))
        y = make_call(attrs, bb.emit(relax.op.permute_dims(x, NHWC)), ohwi, make_constant(bias))
        y = relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)
        return relax.op.squeeze(bb.emit(y), [2]) if len(shape) == 3 else y


class Gemm(Fallback):
    """Matrix product with a constant right side -> `nn.dense`."""

    op_type = "Gemm"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        weight = constant(inputs[1])
        bias = np.zeros(1, "float32") if inputs[2] is None else constant(inputs[2])
        if weight is None or bias is None or attr.get("transA", 0) or weight.dtype != np.float32:
            return cls._stock(bb, inputs, attr, params)
        weight = weight if attr.get("transB", 0) else weight.T
        rows = weight.shape[0]
        if bias.size not in (1, rows) or (bias.size == rows and bias.shape[-1:] != (rows,) and rows != 1):
            return cls._stock(bb, inputs, attr, params)
        bias = np.broadcast_to(bias.reshape(-1) * np.float32(attr.get("beta", 1.0)), (rows,))
        weight = weight * np.float32(attr.get("alpha", 1.0))
        return make_call(op.Dense(), inputs[0], make_constant(weight), make_constant(bias))


class MatMul(Fallback):
    """Product with a constant matrix -> `nn.dense`; of two activations -> `nn.matmul`."""

    op_type = "MatMul"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        weight = constant(inputs[1])
        ranks = [len(tensor_type(i).shape) for i in inputs]
        if any(tensor_type(i).dtype != "float32" for i in inputs) or min(ranks) < 2:
            return cls._stock(bb, inputs, attr, params)
        if weight is not None and ranks[1] <= ranks[0] and weight.size == weight.shape[-1] * weight.shape[-2]:
            weight = weight.reshape(weight.shape[-2:])
        if weight is None or weight.ndim != 2:
            return make_call(op.MatMul(), *inputs)
        bias = make_constant(np.zeros(weight.shape[1], "float32"))
        return make_call(op.Dense(), inputs[0], make_constant(weight.T), bias)


class BatchNormalization(Fallback):
    """Inference batch normalization -> one multiplication and one addition per channel, which `fuse` folds away."""

    op_type = "BatchNormalization"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        statistics = [constant(i) for i in inputs[1:5]]
        if any(s is None for s in statistics) or attr.get("training_mode", 0):
            return cls._stock(bb, inputs, attr, params)
        gamma, beta, mean, variance = (np.asarray(s, "float64") for s in statistics)
        scale = gamma / np.sqrt(variance + attr.get("epsilon", 1e-5))
        shape = (-1,) + (1,) * (len(tensor_type(inputs[0]).shape) - 2)
        scaled = relax.op.multiply(inputs[0], make_constant(scale.astype("float32").reshape(shape)))
        return relax.op.add(bb.emit(scaled), make_constant((beta - mean * scale).astype("float32").reshape(shape)))


class MaxPool(Fallback):
    """2-D maximum pooling -> `nn.max_pool2d`."""

    op_type = "MaxPool"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        kernel = tuple(attr["kernel_shape"])
        if len(kernel) != 2 or attr["tvm_custom"]["num_outputs"] != 1:
            return cls._stock(bb, inputs, attr, params)
        sizes = tensor_type(inputs[0]).shape[2:]
        pads = list(_padding(attr, sizes, kernel))
        strides = tuple(attr.get("strides", (1, 1)))
        dilations = tuple(attr.get("dilations", (1, 1)))
        if attr.get("ceil_mode", 0):
            for i in range(2):
                span = sizes[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1
                out = math.ceil(span / strides[i]) + 1
                # A window must not start in the padding after the image (ONNX follows PyTorch here).
                out -= (out - 1) * strides[i] >= sizes[i] + pads[i]
                pads[i + 2] += max((out - 1) * strides[i] - span, 0)
        attrs = op.MaxPool2d(pool_size=kernel, strides=strides, padding=tuple(pads), dilation=dilations)
        y = make_call(attrs, bb.emit(relax.op.permute_dims(inputs[0], NHWC)))
        return relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)


class AveragePool(Fallback):
    """2-D average pooling without dilation -> Relax's, in NHWC."""

    op_type = "AveragePool"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        kernel = tuple(attr["kernel_shape"])
        if len(kernel) != 2 or any(d != 1 for d in attr.get("dilations", ())):
            return cls._stock(bb, inputs, attr, params)
        x = bb.emit(relax.op.permute_dims(inputs[0], NHWC))
        y = relax.op.nn.avg_pool2d(
            x,
            kernel,
            tuple(attr.get("strides", (1, 1))),
            _padding(attr, tensor_type(inputs[0]).shape[2:], kernel),
            ceil_mode=bool(attr.get("ceil_mode", 0)),
            count_include_pad=bool(attr.get("count_include_pad", 0)),
            layout="NHWC",
        )
        return relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)


class GlobalAveragePool(Fallback):
    """Mean over all spatial axes."""

    op_type = "GlobalAveragePool"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        del bb, attr, params
        rank = len(tensor_type(inputs[0]).shape)
        return relax.op.mean(inputs[0], list(range(2, rank)), keepdims=True)


class Clip(Fallback):
    """Limits that are constants -> maximum and minimum with scalars."""

    op_type = "Clip"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        given = [inputs[i] if i < len(inputs) else None for i in (1, 2)]
        limits = [constant(i) if i is not None else None for i in given]
        usable = [
            i is None or (v is not None and v.size == 1 and not np.isnan(v)) for i, v in zip(given, limits, strict=True)
        ]
        if not all(usable):
            return cls._stock(bb, inputs, attr, params)
        low, high = (
            attr.get(name) if v is None else float(v.reshape(()))
            for name, v in zip(("min", "max"), limits, strict=True)
        )
        dtype = tensor_type(inputs[0]).dtype
        y = inputs[0]
        if low is not None and np.isfinite(low):
            y = bb.emit(relax.op.maximum(y, relax.const(low, dtype)))
        if high is not None and np.isfinite(high):
            y = relax.op.minimum(y, relax.const(high, dtype))
        return y


class Pad(Fallback):
    """Constant padding of an image's height and width -> `nn.pad`."""

    op_type = "Pad"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        padded = [*inputs, None, None, None]
        mode = attr.get("mode", b"constant")
        pads = attr.get("pads") if padded[1] is None else constant(padded[1])
        value = np.float32(attr.get("value", 0.0)) if padded[2] is None else constant(padded[2])
        shape = tensor_type(inputs[0]).shape
        plain = mode == b"constant" and padded[3] is None and tensor_type(inputs[0]).dtype == "float32"
        if not plain or pads is None or value is None or len(shape) != 4:
            return cls._stock(bb, inputs, attr, params)
        before, after = [int(p) for p in pads[:4]], [int(p) for p in pads[4:]]
        if any(before[:2] + after[:2]) or min(before + after) < 0:
            return cls._stock(bb, inputs, attr, params)
        attrs = op.Pad(padding=(before[2], before[3], after[2], after[3]), value=float(value))
        y = make_call(attrs, bb.emit(relax.op.permute_dims(inputs[0], NHWC)))
        return relax.op.permute_dims(bb.emit(y, name_hint=attr["tvm_custom"]["name"]), NCHW)


class Softmax(Fallback):
    """Softmax along any axis -> `nn.softmax` along the last one."""

    op_type = "Softmax"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        x = inputs[0]
        rank = len(tensor_type(x).shape)
        axis = attr.get("axis", -1) % rank
        if tensor_type(x).dtype != "float32":
            return cls._stock(bb, inputs, attr, params)
        if axis == rank - 1:
            return make_call(op.Softmax(), x)
        moved = [a for a in range(rank) if a != axis] + [axis]
        y = make_call(op.Softmax(), bb.emit(relax.op.permute_dims(x, moved)))
        return relax.op.permute_dims(
            bb.emit(y, name_hint=attr["tvm_custom"]["name"]), [int(i) for i in np.argsort(moved)]
        )


class LayerNormalization(Fallback):
    """Layer normalization over the last axis with constant scale and shift -> `nn.layer_norm`."""

    op_type = "LayerNormalization"

    @classmethod
    def _impl_v17(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        x, gamma = inputs[0], constant(inputs[1])
        shape = tensor_type(x).shape
        given = inputs[2] if len(inputs) > 2 else None
        beta = np.zeros(shape[-1:], "float32") if given is None else constant(given)
        last = attr.get("axis", -1) % len(shape) == len(shape) - 1
        only = attr["tvm_custom"]["num_outputs"] == 1
        if not last or not only or gamma is None or beta is None or gamma.dtype != np.float32:
            return cls._stock(bb, inputs, attr, params)
        scale, shift = (make_constant(np.broadcast_to(v, shape[-1:])) for v in (gamma, beta))
        return make_call(op.LayerNorm(float(attr.get("epsilon", 1e-5))), x, scale, shift)


class Split(Fallback):
    """Parts of a tensor -> one slice each, which later passes treat like any other operator with one result."""

    op_type = "Split"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        x, count = inputs[0], attr["tvm_custom"]["num_outputs"]
        shape = tensor_type(x).shape
        axis = attr.get("axis", 0) % len(shape)
        given = inputs[1] if len(inputs) > 1 else None
        sizes = attr.get("split") if given is None else constant(given)
        if given is not None and sizes is None:
            return cls._stock(bb, inputs, attr, params)
        if sizes is None:
            part = -(-shape[axis] // count)
            sizes = [min(part, shape[axis] - i * part) for i in range(count)]
        ends = np.cumsum([int(s) for s in sizes])
        starts = [0, *ends[:-1]]
        slices = [relax.op.strided_slice(x, [axis], [int(a)], [int(b)]) for a, b in zip(starts, ends, strict=True)]
        return relax.Tuple([bb.emit(s) for s in slices])


class Identity(Fallback):
    """Nothing at all (Dropout, at inference, too)."""

    op_type = "Identity"

    @classmethod
    def _impl_v1(cls, bb: Any, inputs: Inputs, attr: dict[str, Any], params: Any) -> relax.Expr:
        del bb, attr, params
        return inputs[0]


CONVERTERS: dict[str, type[tvm_onnx.OnnxOpConverter]] = {
    converter.op_type: converter
    for converter in (
        AveragePool,
        BatchNormalization,
        Clip,
        Conv,
        ConvTranspose,
        DepthToSpace,
        Gemm,
        GlobalAveragePool,
        Identity,
        LayerNormalization,
        MatMul,
        MaxPool,
        Pad,
        Resize,
        Softmax,
        Split,
    )
}
"""ONNX operator type -> our converter; every other type is TVM's."""
