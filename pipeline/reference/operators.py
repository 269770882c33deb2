"""NumPy definition of each of our operators: plain, slow, and independent of the compiled kernels.

Integer sums are computed as float64 matrix products: every partial sum is an integer below 2**53, so they are exact,
and BLAS makes them quick enough to run real models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import ops
from pipeline.ops import pointwise

Array = npt.NDArray[Any]


def _windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return [N,OH,OW,C,KH,KW] views of the padded image x: [N,H,W,C]."""
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return np.asarray(view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]])


def _pad(x: Array, padding: tuple[int, int, int, int], value: Any) -> Array:
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def _convolve(x: Array, weight: Array, attrs: ops.Conv2d | ops.QConv2d) -> Array:
    """Return the float64 sums of products [N,OH,OW,O] of the padded image x and OHWI weights."""
    out, kernel_h, kernel_w, per_group = weight.shape
    windows = _windows(x, (kernel_h, kernel_w), attrs.strides, attrs.dilation)
    batch, out_h, out_w = windows.shape[:3]
    per_group_out = out // attrs.groups
    result = np.empty((batch, out_h, out_w, out), "float64")
    for g in range(attrs.groups):
        patch = windows[:, :, :, g * per_group : (g + 1) * per_group]
        rows = patch.transpose(0, 1, 2, 4, 5, 3).reshape(batch * out_h * out_w, -1).astype("float64")
        chosen = slice(g * per_group_out, (g + 1) * per_group_out)
        sums = rows @ weight[chosen].reshape(per_group_out, -1).T.astype("float64")
        result[..., chosen] = sums.reshape(batch, out_h, out_w, per_group_out)
    return result


def _clip(y: Array, attrs: ops.Conv2d | ops.Conv2dTranspose | ops.Dense | ops.Add) -> Array:
    if attrs.clip_min is not None:
        y = np.maximum(y, np.float32(attrs.clip_min))
    if attrs.clip_max is not None:
        y = np.minimum(y, np.float32(attrs.clip_max))
    return y.astype("float32")


def _scaled(acc: Array, multiplier: Array | np.float32) -> Array:
    return np.asarray(acc.astype("int32").astype("float32") * multiplier.astype("float32"), "float32")


def _saturate(q: Array, attrs: ops.Requantized) -> Array:
    shifted = q.astype("int64") + attrs.output_zero_point
    return np.asarray(np.clip(shifted, attrs.output_min, attrs.output_max).astype("uint8"))


def _finish(
    acc: Array, multiplier: Array | np.float32, attrs: ops.QConv2d | ops.QConv2dTranspose | ops.QDense | ops.QMatMul
) -> Array:
    scaled = _scaled(acc, multiplier)
    return scaled if attrs.output_dtype == "float32" else _saturate(np.rint(scaled), attrs)


def conv2d(attrs: ops.Conv2d, x: Array, weight: Array, bias: Array) -> Array:
    """`nn.conv2d`, summed in float64."""
    return _pad(_without_halo_float(attrs, x, weight, bias), attrs.halo, attrs.halo_value)


def conv2d_add(attrs: ops.Conv2dAdd, x: Array, weight: Array, bias: Array, residual: Array) -> Array:
    """`nn.conv2d_add`."""
    total = add(attrs.total, _without_halo_float(attrs, x, weight, bias), _inside(residual, attrs.residual_halo))
    return _pad(total, attrs.halo, attrs.halo_value)


def _inside(x: Array, halo: tuple[int, int, int, int]) -> Array:
    top, left, bottom, right = halo
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def _without_halo_float(attrs: ops.Conv2d, x: Array, weight: Array, bias: Array) -> Array:
    return _clip(_convolve(_pad(x, attrs.padding, 0), weight, attrs) + bias, attrs)


def _scatter(x: Array, weight: Array, attrs: ops.Conv2dTranspose | ops.QConv2dTranspose) -> Array:
    """Return the float64 sums of a transposed convolution: each pixel of x adds its kernel to the result."""
    batch, height, width, channels = x.shape
    out, kernel_h, kernel_w, inputs = weight.shape
    (stride_h, stride_w), (dilation_h, dilation_w), groups = attrs.strides, attrs.dilation, attrs.groups
    top, left, bottom, right = attrs.padding
    size_h = stride_h * (height - 1) + dilation_h * (kernel_h - 1) + 1 + attrs.output_padding[0]
    size_w = stride_w * (width - 1) + dilation_w * (kernel_w - 1) + 1 + attrs.output_padding[1]
    full = np.zeros((batch, size_h, size_w, out), "float64")
    grouped = x.reshape(batch, height, width, groups, channels // groups).astype("float64")
    kernels = weight.reshape(groups, out // groups, kernel_h, kernel_w, inputs).astype("float64")
    for i, j in np.ndindex(kernel_h, kernel_w):
        added = np.einsum("nhwgc,goc->nhwgo", grouped, kernels[:, :, i, j])
        rows = slice(i * dilation_h, i * dilation_h + stride_h * (height - 1) + 1, stride_h)
        columns = slice(j * dilation_w, j * dilation_w + stride_w * (width - 1) + 1, stride_w)
        full[:, rows, columns] += added.reshape(batch, height, width, out)
    return full[:, top : size_h - bottom, left : size_w - right]


def conv2d_transpose(attrs: ops.Conv2dTranspose, x: Array, weight: Array, bias: Array) -> Array:
    """`nn.conv2d_transpose`, summed in float64."""
    return _clip(_scatter(x, weight, attrs) + bias, attrs)


def depth_to_space(attrs: ops.DepthToSpace, x: Array) -> Array:
    """`nn.depth_to_space`."""
    batch, height, width, channels = x.shape
    (block_h, block_w), groups, (top, left, bottom, right) = attrs.block, attrs.groups, attrs.crop
    depth = channels // (block_h * block_w * groups)
    blocks = x.reshape(batch, height, width, groups, block_h, block_w, depth).transpose(0, 1, 4, 2, 5, 3, 6)
    full = blocks.reshape(batch, height * block_h, width * block_w, groups * depth)
    return np.asarray(full[:, top : full.shape[1] - bottom, left : full.shape[2] - right])


def dense(attrs: ops.Dense, x: Array, weight: Array, bias: Array) -> Array:
    """`nn.dense`, summed in float64."""
    return _clip(x.astype("float64") @ weight.T.astype("float64") + bias, attrs)


def add(attrs: ops.Add, a: Array, b: Array) -> Array:
    """`nn.add`."""
    return _clip(a + b, attrs)


def multiply(attrs: ops.Multiply, a: Array, b: Array) -> Array:
    """`nn.multiply`."""
    del attrs
    return np.asarray(a * b)


def pad(attrs: ops.Pad, x: Array) -> Array:
    """`nn.pad`."""
    return _pad(x, attrs.padding, attrs.value)


def stack(attrs: ops.Stack, *parts: Array) -> Array:
    """`nn.stack`."""
    del attrs
    return np.concatenate(parts)


def upsample_concat(attrs: ops.UpsampleConcat, *images: Array) -> Array:
    """`nn.upsample_concat`."""
    parts = [x.repeat(rows, 1).repeat(columns, 2) for x, (rows, columns) in zip(images, attrs.scales, strict=True)]
    return _pad(np.concatenate(parts, 3), attrs.halo, attrs.halo_value)


def _neighbours(size: int, out: int, start: float, step: float) -> tuple[Array, Array, Array]:
    """Return for each position of a resized axis its two pixels, and the second one's fraction."""
    positions = np.clip(start + np.arange(out) * step, 0, size - 1)
    first = np.minimum(positions.astype("int64"), max(size - 2, 0))
    return first, np.minimum(first + 1, size - 1), positions - first


def resize_bilinear(attrs: ops.ResizeBilinear, x: Array) -> Array:
    """`nn.resize_bilinear`, in float64."""
    y = x.astype("float64")
    for axis in (1, 2):
        out, start, step = attrs.size[axis - 1], attrs.starts[axis - 1], attrs.steps[axis - 1]
        first, second, fraction = _neighbours(x.shape[axis], out, start, step)
        fraction = fraction.reshape((1,) * axis + (-1,) + (1,) * (3 - axis))
        y = np.take(y, first, axis) * (1 - fraction) + np.take(y, second, axis) * fraction
    return np.asarray(y.astype("float32"))


def qresize_bilinear(attrs: ops.QResizeBilinear, x: Array) -> Array:
    """`qnn.resize_bilinear`."""
    y = x.astype("int64")
    for axis in (1, 2):
        out, start, step = attrs.size[axis - 1], attrs.starts[axis - 1], attrs.steps[axis - 1]
        first, second, fraction = _neighbours(x.shape[axis], out, start, step)
        weight = np.rint(256 * fraction).astype("int64").reshape((1,) * axis + (-1,) + (1,) * (3 - axis))
        y = np.take(y, first, axis) * (256 - weight) + np.take(y, second, axis) * weight
    return np.asarray(((y + (1 << 15)) >> 16).astype("uint8"))


def max_pool2d(attrs: ops.MaxPool2d, x: Array) -> Array:
    """`nn.max_pool2d`."""
    lowest = -np.inf if x.dtype == np.float32 else 0
    windows = _windows(_pad(x, attrs.padding, lowest), attrs.pool_size, attrs.strides, attrs.dilation)
    return _pad(np.asarray(windows.max(axis=(4, 5))), attrs.halo, attrs.halo_value)


def unary(attrs: ops.Unary, x: Array) -> Array:
    """`nn.unary`, in float32."""
    return pointwise.evaluate(pointwise.parse(attrs.expression), x)


def sort_order(attrs: ops.SortOrder, x: Array) -> Array:
    """`nn.sort_order`, by NumPy's stable sort; sorted backwards, equal values would come in the wrong order."""
    order = np.argsort(x, axis=-1, kind="stable")
    if attrs.descending:
        order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return order[..., : attrs.count].astype("int64")


def softmax(attrs: ops.Softmax, x: Array) -> Array:
    """`nn.softmax`, in float64."""
    del attrs
    exponentials = np.exp(x.astype("float64") - x.max(axis=-1, keepdims=True))
    return np.asarray((exponentials / exponentials.sum(axis=-1, keepdims=True)).astype("float32"))


def layer_norm(attrs: ops.LayerNorm, x: Array, gamma: Array, beta: Array) -> Array:
    """`nn.layer_norm`, in float64."""
    centred = x.astype("float64") - x.mean(axis=-1, keepdims=True, dtype="float64")
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + attrs.epsilon)
    return np.asarray((centred / deviation * gamma + beta).astype("float32"))


def _matrix_products(a: Array, b: Array, transpose_b: bool) -> Array:
    """Return the float64 products of batches of matrices."""
    right = np.swapaxes(b, -1, -2) if transpose_b else b
    return np.asarray(a.astype("float64") @ right.astype("float64"))


def matmul(attrs: ops.MatMul, a: Array, b: Array) -> Array:
    """`nn.matmul`, summed in float64."""
    return _matrix_products(a, b, attrs.transpose_b).astype("float32")


def qconv2d(attrs: ops.QConv2d, x: Array, weight: Array, bias: Array, multiplier: Array) -> Array:
    """`qnn.conv2d`."""
    return _pad(_without_halo(attrs, x, weight, bias, multiplier), attrs.halo, attrs.halo_value)


def qconv2d_add(
    attrs: ops.QConv2dAdd, x: Array, weight: Array, bias: Array, multiplier: Array, residual: Array
) -> Array:
    """`qnn.conv2d_add`."""
    total = qadd(attrs.total, _without_halo(attrs, x, weight, bias, multiplier), _inside(residual, attrs.residual_halo))
    return _pad(total, attrs.halo, attrs.halo_value)


def qconv2d_lookup(
    attrs: ops.QConv2dLookup, x: Array, weight: Array, bias: Array, multiplier: Array, table: Array
) -> Array:
    """`qnn.conv2d_lookup`."""
    return _pad(table[_without_halo(attrs, x, weight, bias, multiplier)], attrs.halo, attrs.halo_value)


def _without_halo(attrs: ops.QConv2d, x: Array, weight: Array, bias: Array, multiplier: Array) -> Array:
    centred = x.astype("int32") - attrs.input_zero_point
    return _finish(_convolve(_pad(centred, attrs.padding, 0), weight, attrs) + bias, multiplier, attrs)


def qconv2d_transpose(attrs: ops.QConv2dTranspose, x: Array, weight: Array, bias: Array, multiplier: Array) -> Array:
    """`qnn.conv2d_transpose`."""
    centred = x.astype("int32") - attrs.input_zero_point
    return _finish(_scatter(centred, weight, attrs) + bias, multiplier, attrs)


def qdense(attrs: ops.QDense, x: Array, weight: Array, bias: Array, multiplier: Array) -> Array:
    """`qnn.dense`."""
    centred = x.astype("float64") - attrs.input_zero_point
    return _finish(centred @ weight.T.astype("float64") + bias, multiplier, attrs)


def qmatmul(attrs: ops.QMatMul, a: Array, b: Array) -> Array:
    """`qnn.matmul`."""
    left, right = a.astype("int32") - attrs.a_zero_point, b.astype("int32") - attrs.b_zero_point
    return _finish(_matrix_products(left, right, attrs.transpose_b), np.float32(attrs.multiplier), attrs)


def qsoftmax(attrs: ops.QSoftmax, x: Array, table: Array) -> Array:
    """`qnn.softmax`."""
    exponentials = table[x.max(axis=-1, keepdims=True).astype("int32") - x]
    total = exponentials.sum(axis=-1, keepdims=True, dtype="int32")
    return _saturate(np.rint(_scaled(exponentials, np.float32(attrs.multiplier) / total.astype("float32"))), attrs)


def qadd(attrs: ops.QAdd, a: Array, b: Array) -> Array:
    """`qnn.add`."""
    left = (a.astype("int64") - attrs.a_zero_point) * attrs.a_multiplier
    right = (b.astype("int64") - attrs.b_zero_point) * attrs.b_multiplier
    return _saturate((left + right + (1 << (attrs.shift - 1))) >> attrs.shift, attrs)


def qmultiply(attrs: ops.QMultiply, a: Array, b: Array) -> Array:
    """`qnn.multiply`."""
    product = (a.astype("int32") - attrs.a_zero_point) * (b.astype("int32") - attrs.b_zero_point)
    return _saturate(np.rint(_scaled(product, np.float32(attrs.multiplier))), attrs)


def avg_pool2d(attrs: ops.AvgPool2d, x: Array, multiplier: Array) -> Array:
    """`nn.avg_pool2d`."""
    sums = _window_sums(attrs, x.astype("float64"), multiplier.shape)
    return np.asarray(sums * multiplier[None, :, :, None], "float32")


def qavg_pool2d(attrs: ops.QAvgPool2d, x: Array, multiplier: Array) -> Array:
    """`qnn.avg_pool2d`."""
    sums = _window_sums(attrs, x.astype("int32") - attrs.input_zero_point, multiplier.shape)
    return _saturate(np.rint(_scaled(sums, multiplier[None, :, :, None])), attrs)


def _window_sums(attrs: ops.AvgPool2d | ops.QAvgPool2d, x: Array, out: tuple[int, ...]) -> Array:
    out_h, out_w = out
    needed_h = (out_h - 1) * attrs.strides[0] + attrs.pool_size[0]
    needed_w = (out_w - 1) * attrs.strides[1] + attrs.pool_size[1]
    top, left, _, _ = attrs.padding
    below = max(needed_h - x.shape[1] - top, 0)
    beside = max(needed_w - x.shape[2] - left, 0)
    padded = _pad(x, (top, left, below, beside), 0)
    return np.asarray(_windows(padded, attrs.pool_size, attrs.strides, (1, 1))[:, :out_h, :out_w].sum(axis=(4, 5)))


def qlookup(attrs: ops.QLookup, x: Array, table: Array) -> Array:
    """`qnn.lookup`."""
    return np.asarray(table[x])


def quantize(attrs: ops.Quantize, x: Array) -> Array:
    """`qnn.quantize`."""
    low, high = np.float32(-attrs.zero_point), np.float32(255 - attrs.zero_point)
    v = np.rint(x.astype("float32") * np.float32(attrs.inverse_scale))
    v = np.where(v < high, v, high)
    v = np.where(v > low, v, low)
    return (v.astype("int32") + attrs.zero_point).astype("uint8")


def quantize_image(attrs: ops.QuantizeImage, x: Array) -> Array:
    """`qnn.quantize_image`."""
    padded = _pad(quantize(attrs, x).transpose(0, 2, 3, 1), attrs.halo, attrs.halo_value)
    last = padded.shape[1] - attrs.rows
    below = [padded[:, r : last + r + 1 : attrs.row_step] for r in range(attrs.rows)]
    return np.concatenate(below, axis=3)


def dequantize(attrs: ops.Dequantize, x: Array) -> Array:
    """`qnn.dequantize`."""
    return _scaled(x.astype("int32") - attrs.zero_point, np.float32(attrs.scale))


OPERATORS: dict[type[ops.Operator], Callable[..., Array]] = {
    ops.Conv2d: conv2d,
    ops.Conv2dAdd: conv2d_add,
    ops.Conv2dTranspose: conv2d_transpose,
    ops.DepthToSpace: depth_to_space,
    ops.Stack: stack,
    ops.UpsampleConcat: upsample_concat,
    ops.Dense: dense,
    ops.Add: add,
    ops.Multiply: multiply,
    ops.AvgPool2d: avg_pool2d,
    ops.Pad: pad,
    ops.MaxPool2d: max_pool2d,
    ops.ResizeBilinear: resize_bilinear,
    ops.QResizeBilinear: qresize_bilinear,
    ops.Unary: unary,
    ops.Softmax: softmax,
    ops.SortOrder: sort_order,
    ops.LayerNorm: layer_norm,
    ops.MatMul: matmul,
    ops.QConv2d: qconv2d,
    ops.QConv2dAdd: qconv2d_add,
    ops.QConv2dLookup: qconv2d_lookup,
    ops.QConv2dTranspose: qconv2d_transpose,
    ops.QDense: qdense,
    ops.QMatMul: qmatmul,
    ops.QSoftmax: qsoftmax,
    ops.QAdd: qadd,
    ops.QMultiply: qmultiply,
    ops.QAvgPool2d: qavg_pool2d,
    ops.QLookup: qlookup,
    ops.Quantize: quantize,
    ops.QuantizeImage: quantize_image,
    ops.Dequantize: dequantize,
}
"""The reference function of each of our operators."""


def evaluate(attrs: ops.Operator, *arguments: Array) -> Array:
    """Run one of our operators on NumPy arrays.

    Args:
        attrs: the operator's description.
        arguments: its tensor arguments, in the order of `attrs.arguments`.
    """
    return OPERATORS[type(attrs)](attrs, *arguments)
