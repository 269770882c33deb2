"""Converters of convolutions, matrix products and batch normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, topi

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import NCHW, NHWC, Array, Node, take
from pipeline.importer.frontend.converters.pooling import same_padding
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant


def conv(node: Node) -> relax.Expr:
    """Conv: 1-D and 2-D with constant weights -> `nn.conv2d`, where a 1-D signal is an image of height 1.

    Others -> convolutions of Relax.
    """
    weight, bias = node.constant(1), _bias(node)
    if weight is None or bias is None or weight.ndim not in (3, 4) or weight.dtype != np.float32:
        return _convolution_by_relax(node)
    x, shape = node.x, node.shape
    pads = same_padding(node, shape[2:], weight.shape[2:])
    strides = node.integers("strides", (1,) * (weight.ndim - 2))
    dilations = node.integers("dilations", (1,) * (weight.ndim - 2))
    if weight.ndim == 3:
        x = node.emit(relax.op.expand_dims(x, 2))
        weight, strides, dilations = weight[:, :, None], (1, *strides), (1, *dilations)
        pads = (0, pads[0], 0, pads[1])
    _check_fits(tensor_type(x).shape[2:], weight.shape[2:], pads, dilations)
    operator = ops.Conv2d(
        strides=(strides[0], strides[1]),
        padding=(pads[0], pads[1], pads[2], pads[3]),
        dilation=(dilations[0], dilations[1]),
        groups=node.attributes.get("group", 1),
    )
    bias = np.broadcast_to(bias, weight.shape[:1]).astype("float32")
    ohwi = make_constant(weight.transpose(0, 2, 3, 1))
    y = make_call(operator, node.emit(relax.op.permute_dims(x, NHWC)), ohwi, make_constant(bias))
    y = node.emit(relax.op.permute_dims(node.emit(y), NCHW))
    return relax.op.squeeze(y, [2]) if len(shape) == 3 else y


def _check_fits(sizes: Sequence[int], kernel: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> None:
    count = len(sizes)
    for i in range(count):
        window, padded = (kernel[i] - 1) * dilations[i] + 1, sizes[i] + pads[i] + pads[i + count]
        if window > padded:
            raise ModelError(f"its window spans {window} pixels, more than the {padded} of the padded image")


def _bias(node: Node) -> Array | None:
    """Return the bias if it is constant, a zero if there is none, and None if it isn't constant."""
    return np.zeros(1, "float32") if node.optional(2) is None else node.constant(2)


def _convolution_by_relax(node: Node) -> relax.Expr:
    """Conv with computed weights, or of volumes -> `relax.nn.conv1d`, `conv2d` or `conv3d`."""
    weight = node.input_type(1).shape
    count = len(weight) - 2
    if count not in (1, 2, 3):
        raise ModelError(f"it has {count} spatial dimensions; 1 to 3 are supported")
    pads = same_padding(node, node.shape[2:], weight[2:])
    strides, dilations = (node.integers(name, (1,) * count) for name in ("strides", "dilations"))
    _check_fits(node.shape[2:], weight[2:], pads, dilations)
    y = _relax_conv(node.x, node.required(1), strides, pads, dilations, node.attributes.get("group", 1))
    return _with_bias(node, node.emit(y))


def _relax_conv(
    x: relax.Expr, weight: relax.Expr, strides: Any, pads: Sequence[int], dilations: Any, groups: int
) -> relax.Expr:
    convolutions = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
    return convolutions[len(strides)](x, weight, tuple(strides), tuple(pads), tuple(dilations), groups)


def _with_bias(node: Node, y: relax.Expr) -> relax.Expr:
    bias = node.optional(2)
    if bias is None:
        return y
    rank = len(tensor_type(y).shape)
    return relax.op.add(y, node.emit(relax.op.reshape(bias, [1, -1] + [1] * (rank - 2))))


def conv_transpose(node: Node) -> relax.Expr:
    """ConvTranspose: 1-D and 2-D with constant weights -> `nn.conv2d_transpose`; others -> a convolution of Relax."""
    weight, bias = node.constant(1), _bias(node)
    kernel = node.input_type(1).shape[2:]
    strides, dilations, padding, extra = _transposed_geometry(node, node.shape[2:], kernel)
    if weight is None or bias is None or weight.ndim not in (3, 4) or weight.dtype != np.float32:
        return _transposed_as_convolution(node, strides, dilations, padding, extra)
    x = node.x
    if weight.ndim == 3:
        x = node.emit(relax.op.expand_dims(x, 2))
        weight, strides, dilations = weight[:, :, None], (1, *strides), (1, *dilations)
        padding, extra = (0, padding[0], 0, padding[1]), (0, *extra)
    groups = node.attributes.get("group", 1)
    operator = ops.Conv2dTranspose(strides, padding, extra, dilations, groups)
    inputs_per_group, (out, *window) = weight.shape[0] // groups, weight.shape[1:]
    grouped = weight.reshape(groups, inputs_per_group, out, *window).transpose(0, 2, 3, 4, 1)
    ohwi = make_constant(grouped.reshape(groups * out, *window, inputs_per_group))
    bias = make_constant(np.broadcast_to(bias, (groups * out,)).astype("float32"))
    y = node.emit(make_call(operator, node.emit(relax.op.permute_dims(x, NHWC)), ohwi, bias))
    y = node.emit(relax.op.permute_dims(y, NCHW))
    return relax.op.squeeze(y, [2]) if len(node.shape) == 3 else y


def _transposed_geometry(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Any, ...]:
    """Return a transposed convolution's strides, dilation, padding and output padding, with `auto_pad` resolved.

    Args:
        node: the node.
        sizes: spatial sizes of the input.
        kernel: spatial sizes of the kernel.
    """
    count = len(sizes)
    axes = range(count)
    strides, dilation = (node.integers(name, (1,) * count) for name in ("strides", "dilations"))
    extra = list(node.integers("output_padding", (0,) * count))
    wanted = node.integers("output_shape", ())
    mode = node.text("auto_pad", "NOTSET")
    if not wanted and mode in ("NOTSET", "VALID"):
        none = (0,) * (2 * count)
        return strides, dilation, node.integers("pads", none) if mode == "NOTSET" else none, tuple(extra)
    wanted = wanted[-count:] if wanted else tuple(sizes[i] * strides[i] for i in axes)
    full = [strides[i] * (sizes[i] - 1) + dilation[i] * (kernel[i] - 1) + 1 + extra[i] for i in axes]
    totals = [max(full[i] - wanted[i], 0) for i in axes]
    smaller = [t // 2 for t in totals]
    larger = [t - s for t, s in zip(totals, smaller, strict=True)]
    # If a larger result is asked for, it is extended by zeros (plus bias) at the ends.
    extra = [extra[i] + max(wanted[i] - full[i], 0) for i in axes]
    padding = (*smaller, *larger) if mode == "SAME_UPPER" else (*larger, *smaller)
    return strides, dilation, padding, tuple(extra)


def _transposed_as_convolution(node: Node, strides: Any, dilations: Any, padding: Any, extra: Any) -> relax.Expr:
    """Return a transposed convolution as a convolution by flipped weights, of x with zeros between its pixels."""
    x, groups = node.x, int(node.attributes.get("group", 1))
    inputs, outs, *kernel = node.input_type(1).shape
    count = len(kernel)
    if any(s > 1 for s in strides):
        x = node.builder.emit_te(topi.nn.dilate, x, [1, 1, *strides])
    width, cuts = [0, 0, 0, 0], []
    for i in range(count):
        reach = (kernel[i] - 1) * dilations[i]
        before, after = reach - padding[i], reach - padding[i + count] + extra[i]
        width += [max(before, 0), max(after, 0)]
        cuts.append((max(-before, 0), max(-after, 0)))
    if any(width):
        x = node.emit(relax.op.nn.pad(x, width, pad_value=0.0))
    if any(a or b for a, b in cuts):
        ends = [size - b for size, (_, b) in zip(tensor_type(x).shape[2:], cuts, strict=True)]
        x = node.emit(relax.op.strided_slice(x, list(range(2, 2 + count)), [a for a, _ in cuts], ends))
    weight: relax.Expr = node.emit(relax.op.reshape(node.required(1), [groups, inputs // groups, outs, *kernel]))
    weight = node.emit(relax.op.permute_dims(weight, [0, 2, 1, *range(3, 3 + count)]))
    weight = node.emit(relax.op.reshape(weight, [groups * outs, inputs // groups, *kernel]))
    for i, size in enumerate(kernel):
        weight = node.emit(take(weight, np.arange(size)[::-1], 2 + i))
    y = _relax_conv(x, weight, (1,) * count, (0,) * (2 * count), dilations, groups)
    return _with_bias(node, node.emit(y))


def gemm(node: Node) -> relax.Expr:
    """Gemm with a constant right operand -> `nn.dense`."""
    weight, bias = node.constant(1), _bias(node)
    if weight is None or bias is None or node.flag("transA") or weight.dtype != np.float32:
        return node.convert_by_tvm()
    weight = weight if node.flag("transB") else weight.T
    rows = weight.shape[0]
    if bias.size not in (1, rows) or (bias.size == rows and bias.shape[-1:] != (rows,) and rows != 1):
        return node.convert_by_tvm()
    bias = np.broadcast_to(bias.reshape(-1) * np.float32(node.attributes.get("beta", 1.0)), (rows,))
    weight = weight * np.float32(node.attributes.get("alpha", 1.0))
    return make_call(ops.Dense(), node.x, make_constant(weight), make_constant(bias))


def matmul(node: Node) -> relax.Expr:
    """MatMul: by a constant matrix -> `nn.dense`; of two activations -> `nn.matmul`."""
    weight = node.constant(1)
    types = [node.input_type(i) for i in range(2)]
    ranks = [len(t.shape) for t in types]
    if any(t.dtype != "float32" for t in types) or min(ranks) < 2:
        return node.convert_by_tvm()
    if weight is not None and ranks[1] <= ranks[0] and weight.size == math.prod(weight.shape[-2:]):
        weight = weight.reshape(weight.shape[-2:])
    if weight is None or weight.ndim != 2:
        return make_call(ops.MatMul(), node.x, node.required(1))
    bias = make_constant(np.zeros(weight.shape[1], "float32"))
    return make_call(ops.Dense(), node.x, make_constant(weight.T), bias)


def batch_normalization(node: Node) -> relax.Expr:
    """BatchNormalization -> one multiplication and one addition per channel, which the pass FuseAffine folds."""
    if node.flag("training_mode"):
        raise ModelError("it is in training mode (training_mode is set); export the model for inference")
    statistics = [node.constant(i) for i in range(1, 5)]
    if any(s is None for s in statistics):
        return node.convert_by_tvm()
    gamma, beta, mean, variance = (np.asarray(s, "float64") for s in statistics)
    scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    shape = (-1,) + (1,) * (len(node.shape) - 2)
    scaled = node.emit(relax.op.multiply(node.x, make_constant(scale.astype("float32").reshape(shape))))
    return relax.op.add(scaled, make_constant((beta - mean * scale).astype("float32").reshape(shape)))
