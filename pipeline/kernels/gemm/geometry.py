"""Shapes of convolutions and matrix products."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.kernels.operation import Operation
from pipeline.ops import Conv2d, Conv2dAdd, QConv2d, QConv2dAdd


@dataclass(frozen=True)
class Geometry:
    """A convolution or matrix product without padding.

    Attributes:
        batch, height, width: of the input.
        groups, group_in, group_out: groups, and channels of each on both sides.
        kernel, strides, dilation: (height, width).
        out_height, out_width: of the output.
        halo: (top, left, bottom, right) of the output.
        added_halo: the halo, in the same order, of the tensor that is added to the output.
        zero_rows: how many rows at the top and at the bottom of the input are padding.
    """

    batch: int
    height: int
    width: int
    groups: int
    group_in: int
    group_out: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    out_height: int
    out_width: int
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    added_halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    zero_rows: tuple[int, int] = (0, 0)

    @property
    def depthwise(self) -> bool:
        """Whether each of several groups has one channel on both sides."""
        return self.groups > 1 and self.group_in == self.group_out == 1

    @property
    def products(self) -> int:
        """Number of multiply-adds."""
        pixels = self.batch * self.out_height * self.out_width
        return pixels * self.groups * self.group_out * self.group_in * self.kernel[0] * self.kernel[1]

    def flattened(self) -> Geometry:
        """Return a 1x1 convolution with stride 1 and no halos as one row of pixels; anything else as it is."""
        if self.kernel != (1, 1) or self.strides != (1, 1) or any(self.halo + self.added_halo):
            return self
        pixels = self.batch * self.height * self.width
        return Geometry(1, 1, pixels, self.groups, self.group_in, self.group_out, (1, 1), (1, 1), (1, 1), 1, pixels)

    def merged(self, lanes: int) -> Geometry:
        """Return a convolution of fewer, larger groups, so that each fills `lanes` output channels if that's possible.

        Its weights are block diagonal (`pack_weights`): multiplying by zeros is quicker than leaving lanes empty.
        """
        enough = (m for m in range(1, self.groups) if self.groups % m == 0 and m * self.group_out >= lanes)
        m = next(enough, self.groups)
        group_in, group_out = m * self.group_in, m * self.group_out
        return dataclasses.replace(self, groups=self.groups // m, group_in=group_in, group_out=group_out)

    @property
    def segments(self) -> tuple[int, int]:
        """How many segments there are along the kernel's height and width."""
        merged = self.groups == 1 and self.dilation[1] == 1
        return (self.kernel[0], 1 if merged else self.kernel[1])

    @property
    def segment_length(self) -> int:
        """Number of values in a segment."""
        return self.group_in * self.kernel[1] // self.segments[1]

    @property
    def readable_beyond(self) -> int:
        """How many values of the input follow the last segment. At least as many follow every other segment."""
        rows = (self.out_height - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilation[0]
        columns = (self.out_width - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilation[1]
        pixels_behind = self.height * self.width - (rows * self.width + columns) - 1
        return pixels_behind * self.groups * self.group_in


def geometry_of(operation: Operation) -> Geometry:
    """Return the shape of a convolution or matrix product."""
    operator, (x, weight, *_) = operation.operator, operation.inputs
    if isinstance(operator, Conv2d | QConv2d):
        if any(operator.padding):
            raise ValueError("Convolution kernels take padded inputs; run SeparatePadding first")
        batch, height, width, channels = x.shape
        out, kernel_h, kernel_w, _ = weight.shape
        per_group = (channels // operator.groups, out // operator.groups)
        window, halo = (kernel_h, kernel_w), operator.halo
        added_halo = operator.residual_halo if isinstance(operator, Conv2dAdd | QConv2dAdd) else (0, 0, 0, 0)
        padded_h, padded_w = operation.output.shape[1:3]
        size = (padded_h - halo[0] - halo[2], padded_w - halo[1] - halo[3])
        image = (batch, height, width, operator.groups, *per_group)
        zero_rows = operator.zero_rows if isinstance(operator, QConv2d) else (0, 0)
        return Geometry(*image, window, operator.strides, operator.dilation, *size, halo, added_halo, zero_rows)
    rows = x.size // x.shape[-1]
    return Geometry(1, 1, rows, 1, x.shape[-1], weight.shape[0], (1, 1), (1, 1), (1, 1), 1, rows)
