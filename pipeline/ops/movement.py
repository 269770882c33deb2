"""Operators that only move values."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.ir.operator import Operator
from pipeline.ir.types import TensorType


@dataclass(frozen=True)
class Pad(Operator):
    """`nn.pad`: a halo of `value` around the pixels of x: [N,H,W,C], float32 or uint8.

    `padding` is (top, left, bottom, right). The compiler makes it from convolutions' padding, so that kernels never
    see an edge; a producer may write into the middle of the padded buffer instead.
    """

    name = "nn.pad"
    arguments = ("x",)

    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the padded type: [N,H+top+bottom,W+left+right,C], same dtype."""
        batch, height, width, channels = inputs[0].shape
        top, left, bottom, right = self.padding
        return TensorType((batch, height + top + bottom, width + left + right, channels), inputs[0].dtype)


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

    block: tuple[int, int] = (1, 1)
    groups: int = 1
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type."""
        batch, height, width, channels = inputs[0].shape
        if channels % (self.block[0] * self.block[1] * self.groups):
            raise ValueError(f"{channels} channels aren't {self.groups} groups of blocks of {self.block}")
        top, left, bottom, right = self.crop
        shape = (batch, height * self.block[0] - top - bottom, width * self.block[1] - left - right)
        return TensorType((*shape, channels // (self.block[0] * self.block[1])), inputs[0].dtype)


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


@dataclass(frozen=True)
class SortOrder(Operator):
    """`nn.sort_order`: where the values of each row are that come first when it is sorted, any dtype but bool.

    `y[..., i]` is the index of the value that comes i-th, from the least up, or with `descending` from the largest
    down. Of equal values the one of the lower index comes first. NaN counts as larger than every number.

    x: [...,K]; result: [...,count] int64; count is at most K.
    """

    name = "nn.sort_order"
    arguments = ("x",)

    count: int = 1
    descending: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the indices' type: [...,count] int64."""
        *rows, length = inputs[0].shape
        if not 0 < self.count <= length:
            raise ValueError(f"rows of {length} values have no first {self.count}")
        return TensorType((*rows, self.count), "int64")
