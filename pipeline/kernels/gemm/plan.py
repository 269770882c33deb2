"""Shapes of convolutions and matrix products, and how they are cut into register tiles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.tiling import Tile, Workload
from pipeline.kernels.isa import InstructionSet

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    """A convolution or matrix product without padding.

    Attributes:
        batch, height, width: of the input.
        groups, group_in, group_out: groups, and channels of each on both sides.
        kernel, strides, dilation: (height, width).
        out_height, out_width: of the output.
        halo: (top, left, bottom, right) of the output.
        added_halo: the same of what is added to it.
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
        """Number of values that lie behind the last segment in the input: each segment has so many behind it."""
        rows = (self.out_height - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilation[0]
        columns = (self.out_width - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilation[1]
        pixels_behind = self.height * self.width - (rows * self.width + columns) - 1
        return pixels_behind * self.groups * self.group_in


@dataclass(frozen=True)
class Plan:
    """Everything the loop nest depends on."""

    geometry: Geometry
    isa: InstructionSet
    depth: int
    tile: Tile
    vectors: int

    @property
    def narrow(self) -> bool:
        """Whether a group has fewer output channels than a vector has lanes."""
        return self.geometry.group_out < self.isa.lanes

    @property
    def blocks(self) -> int:
        """Number of channel blocks in a group."""
        return -(-self.vectors // self.tile.nv)

    @property
    def steps(self) -> int:
        """Number of steps in a segment."""
        return -(-self.geometry.segment_length // self.depth)

    @property
    def block_channels(self) -> int:
        """Number of output channels in a block, if it is full."""
        return self.tile.nv * self.isa.lanes

    @property
    def last_block(self) -> int:
        """First channel of a group's last block, which overlaps the one before where blocks don't divide channels."""
        return max(self.geometry.group_out - self.block_channels, 0)

    def vector_channel(self, v: int) -> int:
        """Return the first channel of a vector within its block; an only block's last vector may overlap."""
        return min(v * self.isa.lanes, max(self.geometry.group_out - self.isa.lanes, 0))

    def channels(self) -> Array:
        """Return the output channel, within its group, of each packed lane: [blocks * nv * lanes] int."""
        blocks = np.minimum(np.arange(self.blocks) * self.block_channels, self.last_block)
        vectors = np.array([self.vector_channel(v) for v in range(self.tile.nv)])
        starts = blocks[:, None] + vectors
        return np.asarray((starts[..., None] + np.arange(self.isa.lanes)).reshape(-1))


def make_plan(geometry: Geometry, isa: InstructionSet, depth: int, dtype: str) -> Plan:
    """Return the plan for a geometry.

    Args:
        geometry: what to compute.
        isa: the instruction set.
        depth: how many values a step takes in: the instruction set's `dot_depth`, or 1.
        dtype: what is computed: "int8" or "float32".
    """
    workload = make_workload(geometry, isa, depth, dtype)
    return Plan(geometry.flattened().merged(isa.lanes), isa, depth, workload.choose(), workload.vectors)


def make_workload(geometry: Geometry, isa: InstructionSet, depth: int, dtype: str) -> Workload:
    """Return what a tile is chosen for; see `make_plan`."""
    g = geometry.flattened().merged(isa.lanes)
    steps = g.segments[0] * g.segments[1] * -(-g.segment_length // depth)
    return Workload(g.out_width, g.group_out, g.groups * g.group_out, steps, dtype, isa)
