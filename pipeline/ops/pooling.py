"""Operators that make one pixel of a window of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ir.operator import Operator, Requantized
from pipeline.ir.types import TensorType
from pipeline.ops.movement import Pad


def window_positions(size: int, before: int, after: int, kernel: int, dilation: int, stride: int) -> int:
    """Return how many places a window has along one axis of an image."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def counted_pixels(
    sizes: Sequence[int],
    outs: Sequence[int],
    pool_size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    include_pad: bool,
) -> npt.NDArray[Any]:
    """Return how many pixels each window of a mean counts: [OH,OW] int.

    Args:
        sizes: (height, width) of the image.
        outs: the same of the result.
        pool_size: the same of the window.
        strides: pixels between windows along both axes.
        padding: (top, left, bottom, right).
        include_pad: whether padded pixels count.
    """

    def along(axis: int) -> npt.NDArray[Any]:
        starts = np.arange(outs[axis]) * strides[axis] - padding[axis]
        low, high = (-padding[axis], sizes[axis] + padding[axis + 2]) if include_pad else (0, sizes[axis])
        return np.minimum(starts + pool_size[axis], high) - np.maximum(starts, low)

    return np.outer(along(0), along(1))


@dataclass(frozen=True)
class MaxPool2d(Operator):
    """`nn.max_pool2d`: largest value of each window of x: [N,H,W,C], float32 or uint8. Padded pixels never win.

    `padding` is (top, left, bottom, right); bottom and right already hold what rounding the output size up asks for.
    With a `halo` (top, left, bottom, right), which only the compiler sets, the result lies in a halo of
    `halo_value`: [N,top+OH+bottom,left+OW+right,C].
    """

    name = "nn.max_pool2d"
    arguments = ("x",)

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    halo_value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the pooled type: [N,OH,OW,C] and its halo, same dtype."""
        batch, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.padding
        out_h = window_positions(height, top, bottom, self.pool_size[0], self.dilation[0], self.strides[0])
        out_w = window_positions(width, left, right, self.pool_size[1], self.dilation[1], self.strides[1])
        return Pad(self.halo).infer(TensorType((batch, out_h, out_w, channels), inputs[0].dtype))

    def with_halo(self, pad: Pad) -> MaxPool2d:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, halo=pad.padding, halo_value=pad.value)


@dataclass(frozen=True)
class AvgPool2d(Operator):
    """`nn.avg_pool2d`: mean over windows (global pooling is a window of the whole image), float32.

    `y = sum(x) * multiplier[oh, ow]`; padded pixels add nothing to the sum. The compiler makes it from
    `relax.nn.avg_pool2d` and from `relax.mean` over height and width. `multiplier` holds 1 / (pixels counted).

    x: [N,H,W,C]; multiplier: [OH,OW]; result: [N,OH,OW,C]; all float32.
    """

    name = "nn.avg_pool2d"
    arguments = ("x", "multiplier")

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), "float32")


@dataclass(frozen=True)
class QAvgPool2d(Requantized):
    """`qnn.avg_pool2d`: mean over windows (global pooling is a window of the whole image).

    `q = int32(rint(float32(sum(x - input_zero_point)) * multiplier[oh, ow]))`; padded pixels add nothing to the sum.
    `multiplier` holds input scale / (output scale * pixels counted) for each position, which is where "count include
    pad" and windows that stick out are settled.

    x: [N,H,W,C] uint8; multiplier: [OH,OW] float32; result: [N,OH,OW,C] uint8.
    """

    name = "qnn.avg_pool2d"
    arguments = ("x", "multiplier")

    pool_size: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    input_zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type; its height and width are those of `multiplier`."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *inputs[1].shape, channels), "uint8")
