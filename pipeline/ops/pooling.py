"""Pooling: operators that compute each pixel from a window of pixels."""

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
    """Return the number of pixels that each window of an average pool is divided by: [OH,OW] int.

    Args:
        sizes: (height, width) of the image.
        outs: (height, width) of the result.
        pool_size: (height, width) of the window.
        strides: (vertical, horizontal) distance of windows.
        padding: (top, left, bottom, right).
        include_pad: whether pixels of the padding count, too.
    """

    def along(axis: int) -> Array:
        starts = np.arange(outs[axis]) * strides[axis] - padding[axis]
        low, high = (-padding[axis], sizes[axis] + padding[axis + 2]) if include_pad else (0, sizes[axis])
        return np.minimum(starts + pool_size[axis], high) - np.maximum(starts, low)

    return np.outer(along(0), along(1))


@dataclass(frozen=True)
class MaxPool2d(WithHalo):
    """`nn.max_pool2d`: largest value of each window, float32 or any integer. Pixels of the padding are ignored.

    `padding` is (top, left, bottom, right); if ONNX rounds the size of the result up (`ceil_mode`), bottom and right
    include the pixels that this takes.

    x: [N,H,W,C]; result: [N,OH,OW,C], same dtype; with a `halo`, see `WithHalo`, [N,top+OH+bottom,left+OW+right,C].
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
        """Return the result's type: [N,OH,OW,C], plus the halo, same dtype."""
        batch, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.padding
        out_h = window_positions(height, top, bottom, self.pool_size[0], self.dilation[0], self.strides[0])
        out_w = window_positions(width, left, right, self.pool_size[1], self.dilation[1], self.strides[1])
        return padded_type(TensorType((batch, out_h, out_w, channels), inputs[0].dtype), self.halo)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, or the halo's value if that is lower."""
        return self.bound_with_halo(bounds[0])

    def evaluate(self, *arguments: Array) -> Array:
        """Return the largest values, with the halo."""
        (x,) = arguments
        lowest = -np.inf if x.dtype == np.float32 else np.iinfo(x.dtype).min
        seen = windows(pad_image(x, self.padding, lowest), self.pool_size, self.strides, self.dilation)
        return self.add_halo(np.asarray(seen.max(axis=(4, 5))))


class _MeanOverWindows(Operator):
    """Base of average pools."""

    arguments = ("x", "multiplier")
    image_by_image = True

    pool_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Sides

    def sums(self, x: Array, outs: tuple[int, int]) -> Array:
        """Return the sums over windows: [N,OH,OW,C] for an image [N,H,W,C]. Windows may reach beyond the padding."""
        needed_h, needed_w = ((o - 1) * s + k for o, s, k in zip(outs, self.strides, self.pool_size, strict=True))
        top, left, _, _ = self.padding
        below, beside = max(needed_h - x.shape[1] - top, 0), max(needed_w - x.shape[2] - left, 0)
        seen = windows(pad_image(x, (top, left, below, beside), 0), self.pool_size, self.strides, (1, 1))
        return np.asarray(seen[:, : outs[0], : outs[1]].sum(axis=(4, 5)))


@dataclass(frozen=True)
class AvgPool2d(_MeanOverWindows):
    """`nn.avg_pool2d`: mean of each window, float32. In global pooling the window is the whole image.

    `y = sum(x) * multiplier[oh, ow]`, where pixels of the padding are 0. `multiplier` holds 1 / (pixels that count) for
    each window. The compiler makes the operator from `relax.nn.avg_pool2d`, and from `relax.mean` over height and
    width.

    x: [N,H,W,C]; multiplier: [OH,OW]; result: [N,OH,OW,C]; all float32.
    """

    name = "nn.avg_pool2d"

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), "float32")

    def lower_bound(self, *bounds: float) -> float:
        """Return 0 if x has no negative values; a higher bound wouldn't hold where padding counts."""
        return 0.0 if bounds[0] >= 0 else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means, summed in float64."""
        x, multiplier = arguments
        sums = self.sums(x.astype("float64"), (multiplier.shape[0], multiplier.shape[1]))
        return np.asarray(sums * multiplier[None, :, :, None], "float32")


@dataclass(frozen=True)
class QAvgPool2d(_MeanOverWindows, Requantized):
    """`qnn.avg_pool2d`: mean of each window, requantized to uint8 or int16.

    In global pooling the window is the whole image.
    `q = int32(rint(float32(sum(x - input_zero_point)) * multiplier[oh, ow]))`, then as `Requantized`; pixels of the
    padding add nothing to the sum. `multiplier` holds input scale / (output scale * pixels that count) for each window,
    and so decides whether padding counts.

    x: [N,H,W,C] uint8 or int16; multiplier: [OH,OW] float32; result: [N,OH,OW,C] in `output_dtype`. `realize`
    guarantees that the sum fits int32.
    """

    name = "qnn.avg_pool2d"

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    input_zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means."""
        x, multiplier = arguments
        sums = self.sums(x.astype("int32") - self.input_zero_point, (multiplier.shape[0], multiplier.shape[1]))
        return self.saturate(np.rint(scaled(sums, multiplier[None, :, :, None])))
