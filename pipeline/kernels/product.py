"""The loop nest of every convolution and matrix product, for all instruction sets and for int8 and float32.

A convolution is a sum over *segments*: runs of bytes that lie together in the NHWC input. With no dilation one kernel row
is a segment of KW * C values, as neighbouring pixels are neighbours in memory; otherwise each tap is one, of C values.
A matrix product, or a 1x1 convolution, has one segment of C values, and all its pixels form one row. No im2col, no edges:
padding is an operator of its own, which has run before.

The nest, from outside: (group, channel block, row, tile group) in parallel | tile | segment | step of `dot_depth` values |
register tile of mr pixels x nv vectors. Weights are packed in the order in which the nest reads them:

    [group][channel block][segment][step][nv][lanes][dot_depth]

What doesn't divide is computed twice, not masked: the last tile of a row overlaps the one before, and so do the last
vector of channels and the last step of a segment (there with zero weights for what has been counted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script import tirx as T

from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.tiling import Tile, choose_tile
from pipeline.kernels.vectors import span

Array = npt.NDArray[Any]

PARALLEL_PRODUCTS = 400_000
"""Smaller operations run on the calling thread: waking the pool costs more than it saves."""

TILES_IN_GROUP = 16
"""How many tiles of a row one parallel step does, at the most."""


@dataclass(frozen=True)
class Geometry:
    """A convolution or matrix product without padding.

    Attributes:
        batch, height, width: of the input.
        groups, group_in, group_out: groups, and channels of each on both sides.
        kernel, strides, dilation: (height, width).
        out_height, out_width: of the output.
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
        """Return a 1x1 convolution with stride 1 as one row of pixels; anything else as it is."""
        if self.kernel != (1, 1) or self.strides != (1, 1):
            return self
        pixels = self.batch * self.height * self.width
        return Geometry(1, 1, pixels, self.groups, self.group_in, self.group_out, (1, 1), (1, 1), (1, 1), 1, pixels)

    @property
    def segments(self) -> tuple[int, int]:
        """How many segments there are along the kernel's height and width."""
        merged = self.groups == 1 and self.dilation[1] == 1
        return (self.kernel[0], 1 if merged else self.kernel[1])

    @property
    def segment_length(self) -> int:
        """Number of values in a segment."""
        return self.group_in * self.kernel[1] // self.segments[1]


@dataclass(frozen=True)
class Epilogue:
    """What happens to a tile's accumulators.

    Attributes:
        dtype: of the output.
        finish: from (accumulator, multiplier) to output value, TIR expressions of `lanes` values or of one.
    """

    dtype: str
    finish: Callable[[tirx.PrimExpr, tirx.PrimExpr], tirx.PrimExpr]


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

    def channels(self) -> Array:
        """Return the output channel, within its group, of each packed lane: [blocks * nv * lanes] int."""
        starts = np.arange(self.blocks * self.tile.nv) * self.isa.lanes
        starts = np.minimum(starts, max(self.geometry.group_out - self.isa.lanes, 0))
        return np.asarray((starts[:, None] + np.arange(self.isa.lanes)).reshape(-1))


def make_plan(geometry: Geometry, isa: InstructionSet, depth: int) -> Plan:
    """Return the plan for a geometry.

    Args:
        geometry: what to compute.
        isa: the instruction set.
        depth: how many values a step takes in: the instruction set's `dot_depth`, or 1.
    """
    geometry = geometry.flattened()
    vectors = -(-geometry.group_out // isa.lanes)
    steps = geometry.segments[0] * geometry.segments[1] * -(-geometry.segment_length // depth)
    return Plan(geometry, isa, depth, choose_tile(geometry.out_width, vectors, steps, isa), vectors)


def pack_channels(plan: Plan, values: Array, fill: Any) -> Array:
    """Return per-channel constants, [groups * group_out], in packed order, lanes without a channel filled."""
    channels = plan.channels()
    grouped = values.reshape(plan.geometry.groups, plan.geometry.group_out)
    valid = channels < plan.geometry.group_out
    packed = grouped[:, np.where(valid, channels, 0)]
    return np.where(valid, packed, np.asarray(fill, values.dtype)).astype(values.dtype).reshape(-1)


def pack_weights(plan: Plan, weight: Array) -> Array:
    """Return OHWI weights in the order in which the nest reads them; see the module's docstring."""
    g, depth = plan.geometry, plan.depth
    rows, columns = g.segments
    length = g.segment_length
    runs = weight.reshape(g.groups, g.group_out, rows * columns, length)
    starts = np.minimum(np.arange(plan.steps) * depth, max(length - depth, 0))
    index = starts[:, None] + np.arange(depth)
    # A step that overlaps the one before must not count its values again.
    fresh = (index >= np.arange(plan.steps)[:, None] * depth) & (index < length)
    stepped = np.where(fresh, runs[..., np.minimum(index, length - 1)], 0).astype(weight.dtype)
    channels = plan.channels()
    valid = channels < g.group_out
    picked = stepped[:, np.where(valid, channels, 0)] * valid[:, None, None, None].astype(weight.dtype)
    lanes = picked.reshape(g.groups, plan.blocks, plan.tile.nv, plan.isa.lanes, rows * columns, plan.steps, depth)
    return np.ascontiguousarray(lanes.transpose(0, 1, 4, 5, 2, 3, 6)).reshape(-1)


def make_function(plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, bias, multiplier) -> y, all flat.

    Args:
        plan: geometry and tile.
        dtypes: of input, weights and accumulator.
        epilogue: what happens to the accumulators.
    """
    in_dtype, weight_dtype, acc_dtype = dtypes
    g, lanes, depth, mr, nv = plan.geometry, plan.isa.lanes, plan.depth, plan.tile.mr, plan.tile.nv
    rows, columns = g.segments
    length, steps = g.segment_length, plan.steps
    full_steps = steps if length % depth == 0 else steps - 1
    walk = _Walk.of(plan)
    loop = T.parallel if g.products >= PARALLEL_PRODUCTS and walk.outer > 1 else T.serial
    narrow = plan.narrow
    dot = plan.isa.multiply_add if acc_dtype == "float32" else plan.isa.dot
    channels = g.groups * plan.blocks * nv * lanes
    x_size = g.batch * g.height * g.width * g.groups * g.group_in
    y_size = g.batch * g.out_height * g.out_width * g.groups * g.group_out
    finish = epilogue.finish

    @T.prim_func
    def func(
        x: T.Buffer((x_size,), in_dtype),
        w: T.Buffer((channels * rows * columns * steps * depth,), weight_dtype),
        b: T.Buffer((channels,), acc_dtype),
        m: T.Buffer((channels,), "float32"),
        y: T.Buffer((y_size,), epilogue.dtype),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for p in loop(walk.outer):
            acc = T.alloc_buffer((mr * nv * lanes,), acc_dtype, scope="local")
            for t in T.serial(walk.tiles):
                for i in T.unroll(mr):
                    for v in T.unroll(nv):
                        acc[span((i * nv + v) * lanes, lanes)] = b[span(walk.packed(p, v), lanes)]
                for ky in T.serial(rows):
                    for kx in T.serial(columns):
                        for k in T.serial(full_steps):
                            for i in T.unroll(mr):
                                for v in T.unroll(nv):
                                    acc[span((i * nv + v) * lanes, lanes)] = dot(
                                        acc[span((i * nv + v) * lanes, lanes)],
                                        _values(x, walk.source(p, t, i, ky, kx) + k * depth, depth, depth),
                                        w[span(walk.weights(p, ky, kx, k, v), lanes * depth)],
                                    )
                        for _ in T.unroll(steps - full_steps):
                            for i in T.unroll(mr):
                                for v in T.unroll(nv):
                                    acc[span((i * nv + v) * lanes, lanes)] = dot(
                                        acc[span((i * nv + v) * lanes, lanes)],
                                        _values(
                                            x, walk.source(p, t, i, ky, kx) + max(length - depth, 0), length, depth
                                        ),
                                        w[span(walk.weights(p, ky, kx, full_steps, v), lanes * depth)],
                                    )
                for i in T.unroll(mr):
                    for v in T.unroll(nv):
                        if narrow:
                            for c in T.unroll(g.group_out):
                                y[walk.target(p, t, i) + c] = finish(acc[i * lanes + c], m[walk.packed(p, 0) + c])
                        else:
                            y[span(walk.target(p, t, i) + walk.channel(p, v), lanes)] = finish(
                                acc[span((i * nv + v) * lanes, lanes)], m[span(walk.packed(p, v), lanes)]
                            )

    return func


@dataclass(frozen=True)
class _Walk:
    """Where the nest stands: from loop variables to offsets. `p` counts (block of any group, line, group of tiles)."""

    plan: Plan
    outer: int
    lines: int
    tiles: int
    tile_groups: int

    @classmethod
    def of(cls, plan: Plan) -> _Walk:
        g = plan.geometry
        lines = g.batch * g.out_height
        tiles = -(-g.out_width // plan.tile.mr)
        together = max(d for d in range(1, min(tiles, TILES_IN_GROUP) + 1) if tiles % d == 0)
        tile_groups = tiles // together
        return cls(plan, g.groups * plan.blocks * lines * tile_groups, lines, together, tile_groups)

    def _block(self, p: Any) -> Any:
        return p // (self.lines * self.tile_groups)

    def _line(self, p: Any) -> Any:
        return (p // self.tile_groups) % self.lines

    def _pixel(self, p: Any, t: Any) -> Any:
        g, mr = self.plan.geometry, self.plan.tile.mr
        return T.min(((p % self.tile_groups) * self.tiles + t) * mr, g.out_width - mr)

    def packed(self, p: Any, v: Any) -> Any:
        """Offset of vector v's bias and multiplier."""
        return (self._block(p) * self.plan.tile.nv + v) * self.plan.isa.lanes

    def weights(self, p: Any, ky: Any, kx: Any, k: Any, v: Any) -> Any:
        """Offset of vector v's weights in step k of a segment."""
        rows, columns = self.plan.geometry.segments
        steps, nv = self.plan.steps, self.plan.tile.nv
        step = ((self._block(p) * rows + ky) * columns + kx) * steps + k
        return (step * nv + v) * self.plan.isa.lanes * self.plan.depth

    def source(self, p: Any, t: Any, i: Any, ky: Any, kx: Any) -> Any:
        """Offset of a segment's first value for pixel i of the tile."""
        g = self.plan.geometry
        channels = g.groups * g.group_in
        line = self._line(p)
        row = (line // g.out_height) * g.height + (line % g.out_height) * g.strides[0] + ky * g.dilation[0]
        column = (self._pixel(p, t) + i) * g.strides[1] + kx * g.dilation[1]
        return (row * g.width + column) * channels + (self._block(p) // self.plan.blocks) * g.group_in

    def target(self, p: Any, t: Any, i: Any) -> Any:
        """Offset of pixel i of the tile in the output, at the group's first channel."""
        g = self.plan.geometry
        pixel = self._line(p) * g.out_width + self._pixel(p, t) + i
        return pixel * (g.groups * g.group_out) + (self._block(p) // self.plan.blocks) * g.group_out

    def channel(self, p: Any, v: Any) -> Any:
        """First channel, within the group, of vector v."""
        first = ((self._block(p) % self.plan.blocks) * self.plan.tile.nv + v) * self.plan.isa.lanes
        return T.min(first, self.plan.geometry.group_out - self.plan.isa.lanes)


def _values(x: Any, start: Any, length: int, depth: int) -> Any:
    """Return `depth` values of x; zeros take the place of what lies behind a segment shorter than that."""
    if length >= depth:
        return x[span(start, depth)]
    zeros = [T.IntImm(x.dtype, 0)] * (depth - length)
    return T.Shuffle([x[start + i] for i in range(length)] + zeros, list(range(depth)))
