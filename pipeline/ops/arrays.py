"""What the references of several operators share: padding, windows and scaling, and the sizes that result.

References are plain and slow, and share nothing with the kernels. They compute integer sums as matrix products in
float64, where every partial sum is an integer below 2**53, or in float32 where all are below 2**24: so the result is
exact, and BLAS is quick enough to run real models.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ir.types import TensorType

Sides: TypeAlias = "tuple[int, int, int, int]"
"""Numbers of pixels at the (top, left, bottom, right) of an image: of padding, halos or crops."""

NO_SIDES: Sides = (0, 0, 0, 0)


SIGN = 0x80
"""The bit in which an unsigned value and the signed one that stores it differ."""


def unsigned(x: Array) -> Array:
    """Return the uint8 values that int8 stores, each minus 128; an array of another dtype as it is."""
    return x.view("uint8") ^ np.uint8(SIGN) if x.dtype == np.int8 else x


def signed(x: Array) -> Array:
    """Return uint8 values as int8 stores them: each minus 128."""
    return np.asarray((x ^ np.uint8(SIGN)).view("int8"))


def padded_type(image: TensorType, padding: Sides) -> TensorType:
    """Return the type of a padded image: [N,top+H+bottom,left+W+right,C] for [N,H,W,C], same dtype."""
    batch, height, width, channels = image.shape
    top, left, bottom, right = padding
    return TensorType((batch, top + height + bottom, left + width + right, channels), image.dtype)


def window_positions(size: int, before: int, after: int, kernel: int, dilation: int, stride: int) -> int:
    """Return the number of positions of a sliding window along one axis.

    Args:
        size: pixels of the axis.
        before: pixels of padding before the axis.
        after: pixels of padding after the axis.
        kernel: pixels of the window.
        dilation: distance of the window's pixels.
        stride: distance of the window's positions.
    """
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def pad_image(x: Array, padding: Sides, value: Any) -> Array:
    """Return an image [N,H,W,C] padded with `value`."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def cropped(x: Array, cut: Sides) -> Array:
    """Return an image [N,H,W,C] with pixels at its sides cut off."""
    top, left, bottom, right = cut
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return the windows of an image x [N,H,W,C], which is already padded, as a view [N,OH,OW,C,KH,KW]."""
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return np.asarray(view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]])


def sum_dtype(x: Array, weight: Array) -> str:
    """Return the dtype in which a reference sums the products of x and weight.

    It is float64, except for integers whose sums stay below 2**24: these are exact in float32, too, which takes half
    the time.

    Args:
        x: the activations, of any shape.
        weight: [O,...]; each sum is over all weights of an output channel, or some of them.
    """
    if x.dtype.kind == "f" or weight.dtype.kind == "f":
        return "float64"
    furthest = max(abs(int(x.min(initial=0))), abs(int(x.max(initial=0))))
    magnitude = np.abs(weight.reshape(weight.shape[0], -1).astype("int64")).sum(axis=1).max(initial=0)
    return "float32" if furthest * int(magnitude) < 2**24 else "float64"


def scaled(acc: Array, multiplier: Array | np.float32) -> Array:
    """Return `float32(acc) * multiplier`, where acc holds values of int32."""
    return np.asarray(acc.astype("int32").astype("float32") * multiplier.astype("float32"), "float32")
