"""Operators that only move values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, cropped, pad_image, padded_type


@dataclass(frozen=True)
class Pad(Operator):
    """`nn.pad`: a halo of `value` around the pixels of x: [N,H,W,C], float32 or uint8.

    `padding` is (top, left, bottom, right). The compiler makes it from convolutions' padding, so that kernels never
    see an edge; a producer may write into the middle of the padded buffer instead.
    """

    name = "nn.pad"
    arguments = ("x",)
    moves_values = True
    image_by_image = True

    padding: Sides = NO_SIDES
    value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the padded type: [N,H+top+bottom,W+left+right,C], same dtype."""
        return padded_type(inputs[0], self.padding)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, or the value around it if that is less."""
        return min(bounds[0], self.value)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the padded image."""
        return pad_image(arguments[0], self.padding, self.value)


@dataclass(frozen=True)
class DepthToSpace(Operator):
    """`nn.depth_to_space`: blocks of channels become blocks of pixels (sub-pixel shuffle), float32 or uint8.

    `y[n, h*bh + i - top, w*bw + j - left, g*D + d] = x[n, h, w, ((g*bh + i)*bw + j)*D + d]`, where (bh, bw) is `block`
    and D = C / (bh * bw * groups). `crop`, (top, left, bottom, right), is cut off the result.

    ONNX's DCR is one group, and its CRD as many groups as the result has channels.

    x: [N,H,W,C]; result: [N, H*bh - top - bottom, W*bw - left - right, C / (bh * bw)], same dtype.
    """

    name = "nn.depth_to_space"
    arguments = ("x",)
    moves_values = True
    image_by_image = True

    block: tuple[int, int] = (1, 1)
    groups: int = 1
    crop: Sides = NO_SIDES

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type."""
        batch, height, width, channels = inputs[0].shape
        if channels % (self.block[0] * self.block[1] * self.groups):
            raise ValueError(f"{channels} channels aren't {self.groups} groups of blocks of {self.block}")
        top, left, bottom, right = self.crop
        shape = (batch, height * self.block[0] - top - bottom, width * self.block[1] - left - right)
        return TensorType((*shape, channels // (self.block[0] * self.block[1])), inputs[0].dtype)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the pixels."""
        batch, height, width, channels = arguments[0].shape
        (block_h, block_w), groups = self.block, self.groups
        depth = channels // (block_h * block_w * groups)
        blocks = arguments[0].reshape(batch, height, width, groups, block_h, block_w, depth)
        pixels = blocks.transpose(0, 1, 4, 2, 5, 3, 6)
        return np.asarray(cropped(pixels.reshape(batch, height * block_h, width * block_w, groups * depth), self.crop))


@dataclass(frozen=True)
class Stack(Operator):
    """`nn.stack`: a batch of `count` tensors of one each, float32 or uint8; only the compiler makes it.

    x_i: [1,...]; result: [count,...], same dtype.
    """

    name = "nn.stack"
    arguments = ("x",)

    count: int = 1

    @property
    def arity(self) -> int:
        """Number of tensors."""
        return self.count

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the batch's type, same dtype."""
        return TensorType((self.count, *inputs[0].shape[1:]), inputs[0].dtype)

    def lower_bound(self, *bounds: float) -> float:
        """Return the least bound."""
        return min(bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the batch."""
        return np.concatenate(arguments)


@dataclass(frozen=True)
class SortOrder(Operator):
    """`nn.sort_order`: where the values of each row are that come first when it is sorted, any dtype but bool.

    `y[..., i]` is the index of the value that comes i-th, from the least up, or with `descending` from the largest
    down. Of equal values the one of the lower index comes first. NaN counts as larger than every number.

    x: [...,K]; result: [...,count] int64; count is at most K.
    """

    name = "nn.sort_order"
    arguments = ("x",)
    rowwise = True
    image_by_image = True

    count: int = 1
    descending: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the indices' type: [...,count] int64."""
        *rows, length = inputs[0].shape
        if not 0 < self.count <= length:
            raise ValueError(f"rows of {length} values have no first {self.count}")
        return TensorType((*rows, self.count), "int64")

    def lower_bound(self, *bounds: float) -> float:
        """Return 0, the first index."""
        del bounds
        return 0.0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the indices, by NumPy's stable sort; sorted backwards, equal values would be in the wrong order."""
        (x,) = arguments
        order = np.argsort(x, axis=-1, kind="stable")
        if self.descending:
            order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        return order[..., : self.count].astype("int64")
