"""Steps of several operators' references: padding, windows, scaling; and the sizes that come of them.

References are plain, slow, and share nothing with the kernels. Integer sums are computed as float64 matrix products:
every partial sum is an integer below 2**53, so they are exact, and BLAS makes them quick enough to run real models.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ir.types import TensorType

Sides: TypeAlias = "tuple[int, int, int, int]"
"""Pixels at the (top, left, bottom, right) of images."""

NO_SIDES: Sides = (0, 0, 0, 0)


def padded_type(image: TensorType, padding: Sides) -> TensorType:
    """Return the type of an image [N,H,W,C] with padding: [N,top+H+bottom,left+W+right,C], same dtype."""
    batch, height, width, channels = image.shape
    top, left, bottom, right = padding
    return TensorType((batch, top + height + bottom, left + width + right, channels), image.dtype)


def window_positions(size: int, before: int, after: int, kernel: int, dilation: int, stride: int) -> int:
    """Return how many places a window has along one axis of an image."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def pad_image(x: Array, padding: Sides, value: Any) -> Array:
    """Return an image [N,H,W,C] with padding around its pixels."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def cropped(x: Array, cut: Sides) -> Array:
    """Return an image [N,H,W,C] without some pixels at its sides."""
    top, left, bottom, right = cut
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def windows(x: Array, kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return [N,OH,OW,C,KH,KW] views of the padded image x: [N,H,W,C]."""
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return np.asarray(view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]])


def scaled(acc: Array, multiplier: Array | np.float32) -> Array:
    """Return int32 sums times a multiplier, in float32."""
    return np.asarray(acc.astype("int32").astype("float32") * multiplier.astype("float32"), "float32")
