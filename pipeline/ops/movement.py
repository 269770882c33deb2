"""Operators that move values without computing new ones: padding, depth-to-space, batches, and sort orders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, cropped, pad_image, padded_type


@dataclass(frozen=True)
class Pad(Operator):
    """`nn.pad`: x surrounded by pixels of `value`, any dtype. `padding` is (top, left, bottom, right).

    The compiler also makes it from the padding of convolutions, so that their kernels need no code for image edges.
    WriteHalos then lets the operator before write into the padded buffer.

    x: [N,H,W,C]; result: [N,H+top+bottom,W+left+right,C], same dtype.
    """

    name = "nn.pad"
    arguments = ("x",)
    moves_values = True
    image_by_image = True

    padding: Sides = NO_SIDES
    value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type."""
        return padded_type(inputs[0], self.padding)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, or the padding's value if that is lower."""
        return min(bounds[0], self.value)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the padded image."""
        return pad_image(arguments[0], self.padding, self.value)


@dataclass(frozen=True)
class DepthToSpace(Operator):
    """`nn.depth_to_space`: channels become blocks of pixels (pixel shuffle), any dtype.

    `y[n, h*bh + i - top, w*bw + j - left, g*D + d] = x[n, h, w, ((g*bh + i)*bw + j)*D + d]`, where (bh, bw) is `block`
    and D = C / (bh * bw * groups). `crop`, (top, left, bottom, right), is cut off the result.

    ONNX's mode DCR has one group, its mode CRD as many groups as the result has channels.

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
        """Return the result's type."""
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
    """`nn.stack`: `count` tensors with a batch of 1 each, concatenated to one batch; float32 or uint8.

    Only the compiler makes it, in the pass SplitBatches.

    x_i: [1,...]; result: [count,...], same dtype.
    """

    name = "nn.stack"
    arguments = ("x",)

    count: int = 1

    @property
    def arity(self) -> int:
        """Number of tensor arguments, `count`."""
        return self.count

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type."""
        return TensorType((self.count, *inputs[0].shape[1:]), inputs[0].dtype)

    def lower_bound(self, *bounds: float) -> float:
        """Return the least of the tensors' bounds."""
        return min(bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the batch."""
        return np.concatenate(arguments)


@dataclass(frozen=True)
class SortOrder(Operator):
    """`nn.sort_order`: the indices of the first `count` values of each row in sorted order, any dtype but bool.

    `y[..., i]` is the index of the i-th smallest value, or with `descending` of the i-th largest. Of equal values, that
    of the lower index comes first. NaN counts as larger than every number.

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
            raise ValueError(f"count is {self.count}; it must be from 1 to the length of a row, {length}")
        return TensorType((*rows, self.count), "int64")

    def lower_bound(self, *bounds: float) -> float:
        """Return 0, the least index."""
        del bounds
        return 0.0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the indices, by NumPy's stable sort."""
        (x,) = arguments
        order = np.argsort(x, axis=-1, kind="stable")
        if self.descending:
            # Sorting the reversed row keeps equal values in their order; reversing a sorted row would not.
            order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        return order[..., : self.count].astype("int64")
