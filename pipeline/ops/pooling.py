"""Operators that make one pixel of a window of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, pad_image, padded_type, scaled, window_positions, windows
from pipeline.ops.bases import Requantized, WithHalo


def counted_pixels(
    sizes: Sequence[int],
    outs: Sequence[int],
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    include_pad: bool,
) -> Array:
    """Return how many pixels each window of a mean counts: [OH,OW] int.

    Args:
        sizes: (height, width) of the image.
        outs: the same of the result.
        pool_size: the same of the window.
        strides: pixels between windows along both axes.
        padding: (top, left, bottom, right).
        include_pad: whether padded pixels count.
    """

    def along(axis: int) -> Array:
        starts = np.arange(outs[axis]) * strides[axis] - padding[axis]
        low, high = (-padding[axis], sizes[axis] + padding[axis + 2]) if include_pad else (0, sizes[axis])
        return np.minimum(starts + pool_size[axis], high) - np.maximum(starts, low)

    return np.outer(along(0), along(1))


@dataclass(frozen=True)
class MaxPool2d(WithHalo):
    """`nn.max_pool2d`: largest value of each window of x: [N,H,W,C], float32 or uint8. Padded pixels never win.

    `padding` is (top, left, bottom, right); bottom and right already hold what rounding the output size up asks for.
    With a `halo` (top, left, bottom, right), which only the compiler sets, the result lies in a halo of
    `halo_value`: [N,top+OH+bottom,left+OW+right,C].
    """

    name = "nn.max_pool2d"
    arguments = ("x",)
    moves_values = True
    image_by_image = True

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    dilation: tuple[int, int] = (1, 1)
    halo: Sides = NO_SIDES
    halo_value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the pooled type: [N,OH,OW,C] and its halo, same dtype."""
        batch, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.padding
        out_h = window_positions(height, top, bottom, self.pool_size[0], self.dilation[0], self.strides[0])
        out_w = window_positions(width, left, right, self.pool_size[1], self.dilation[1], self.strides[1])
        return padded_type(TensorType((batch, out_h, out_w, channels), inputs[0].dtype), self.halo)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return self.bound_with_halo(bounds[0])

    def evaluate(self, *arguments: Array) -> Array:
        """Return the largest values, within their halo."""
        (x,) = arguments
        lowest = -np.inf if x.dtype == np.float32 else 0
        seen = windows(pad_image(x, self.padding, lowest), self.pool_size, self.strides, self.dilation)
        return self.surrounded(np.asarray(seen.max(axis=(4, 5))))


class _Mean(Operator):
    """Base of means over windows."""

    arguments = ("x", "multiplier")
    image_by_image = True

    pool_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Sides

    def sums(self, x: Array, outs: tuple[int, int]) -> Array:
        """Return the sums over windows [N,OH,OW,C] of an image [N,H,W,C], which may stick out of it."""
        needed_h, needed_w = ((o - 1) * s + k for o, s, k in zip(outs, self.strides, self.pool_size, strict=True))
        top, left, _, _ = self.padding
        below, beside = max(needed_h - x.shape[1] - top, 0), max(needed_w - x.shape[2] - left, 0)
        seen = windows(pad_image(x, (top, left, below, beside), 0), self.pool_size, self.strides, (1, 1))
        return np.asarray(seen[:, : outs[0], : outs[1]].sum(axis=(4, 5)))


@dataclass(frozen=True)
class AvgPool2d(_Mean):
    """`nn.avg_pool2d`: mean over windows (global pooling is a window of the whole image), float32.

    `y = sum(x) * multiplier[oh, ow]`; padded pixels add nothing to the sum. The compiler makes it from
    `relax.nn.avg_pool2d` and from `relax.mean` over height and width. `multiplier` holds 1 / (pixels counted).

    x: [N,H,W,C]; multiplier: [OH,OW]; result: [N,OH,OW,C]; all float32.
    """

    name = "nn.avg_pool2d"

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), "float32")

    def lower_bound(self, *bounds: float) -> float:
        """Return 0 if no value is less; padded pixels make means of others smaller."""
        return 0.0 if bounds[0] >= 0 else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means, summed in float64."""
        x, multiplier = arguments
        sums = self.sums(x.astype("float64"), (multiplier.shape[0], multiplier.shape[1]))
        return np.asarray(sums * multiplier[None, :, :, None], "float32")


@dataclass(frozen=True)
class QAvgPool2d(_Mean, Requantized):
    """`qnn.avg_pool2d`: mean over windows (global pooling is a window of the whole image).

    `q = int32(rint(float32(sum(x - input_zero_point)) * multiplier[oh, ow]))`; padded pixels add nothing to the sum.
    `multiplier` holds input scale / (output scale * pixels counted) for each position, which is where "count include
    pad" and windows that stick out are settled.

    x: [N,H,W,C] uint8; multiplier: [OH,OW] float32; result: [N,OH,OW,C] uint8.
    """

    name = "qnn.avg_pool2d"

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    input_zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), "uint8")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means."""
        x, multiplier = arguments
        sums = self.sums(x.astype("int32") - self.input_zero_point, (multiplier.shape[0], multiplier.shape[1]))
        return self.saturate(np.rint(scaled(sums, multiplier[None, :, :, None])))
