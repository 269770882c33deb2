"""The loop nest of every convolution and matrix product, for all instruction sets and for int8 and float32.

A convolution is a sum over *segments*: runs of bytes that lie together in the NHWC input. With no dilation one kernel
row is a segment of KW * C values, as neighbouring pixels are neighbours in memory; otherwise each tap is one, of C
values. A matrix product, or a 1x1 convolution, has one segment of C values, and all its pixels form one row. No im2col,
no edges: padding is an operator of its own, which has run before.

The nest, from outside: (chunk of the tiles, group, channel block) in parallel | tile | segment | step of `dot_depth`
values | register tile of mr pixels x nv vectors. Threads get neighbouring chunks, so that they don't write into each
other's cache lines; where weights outweigh activations, there is one chunk, and threads share the channel blocks.
Weights are packed in the order in which the nest reads them:

    [group][channel block][segment][step][nv][lanes][dot_depth]

While a channel block is computed, its tiles fetch the next one's weights, evenly spread, so that their coming from the
third-level cache or from memory costs nothing: in a whole network, weights are hardly ever near.

What doesn't divide is computed twice, not masked: the last tile of a row overlaps the one before, and so do the last
vector of channels and the last step of a segment (there with zero weights for what has been counted).
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.epilogue import Epilogue
from pipeline.kernels.frame import Frame
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.tiling import Tile, choose_tile, resident_bytes
from pipeline.kernels.vectors import joined, part, register_buffer, span

Array = npt.NDArray[Any]

PARALLEL_INSTRUCTIONS = 30_000
"""Operations of fewer multiply-adds of vectors run on the calling thread: waking the pool costs more than it saves."""

CHUNKS = 8
"""Into how many chunks the tiles are cut, so that few threads get equal shares."""

FILLED_VECTORS = 4
"""Vectors of a frame that are written by one step."""

FETCH_AHEAD = 16
"""How many steps ahead weights are fetched into the first-level cache, if they don't stay there from tile to tile."""

CACHE_LINE = 64
"""Bytes that one fetch brings."""

FUSED_STEPS = 8
"""Segments of so few steps share one loop: LLVM would unroll theirs completely, and then run out of registers."""


@dataclass(frozen=True)
class Geometry:
    """A convolution or matrix product without padding.

    Attributes:
        batch, height, width: of the input.
        groups, group_in, group_out: groups, and channels of each on both sides.
        kernel, strides, dilation: (height, width).
        out_height, out_width: of the output.
        frame: (top, left, bottom, right) of the output.
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
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)

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
        """Return a 1x1 convolution with stride 1 and no frame as one row of pixels; anything else as it is."""
        if self.kernel != (1, 1) or self.strides != (1, 1) or any(self.frame):
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
    geometry = geometry.flattened().merged(isa.lanes)
    vectors = -(-geometry.group_out // isa.lanes)
    steps = geometry.segments[0] * geometry.segments[1] * -(-geometry.segment_length // depth)
    return Plan(geometry, isa, depth, choose_tile(geometry.out_width, vectors, steps, isa), vectors)


def make_function(plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue) -> tirx.PrimFunc:
    """Return the loop nest for (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat.

    Args:
        plan: geometry and tile.
        dtypes: of input, weights and accumulator.
        epilogue: what happens to the accumulators.
    """
    return _Nest(plan, dtypes, epilogue).build()


def worth_sharing(geometry: Geometry, isa: InstructionSet, depth: int) -> bool:
    """Return whether an operation is large enough for several threads, if each instruction sums `depth` products."""
    return geometry.products >= PARALLEL_INSTRUCTIONS * isa.lanes * depth


@dataclass(frozen=True)
class _Place:
    """Where a tile is: offsets into the buffers, as TIR expressions.

    Attributes:
        x: of the first pixel's first value.
        weights, packed: of the channel block's weights, and of its bias and multipliers.
        next_weights: of those weights of the next block that this tile fetches into the second-level cache.
        y: of the first pixel's first value in the group.
        added: the same in the tensor that the epilogue adds, which has no frame.
        vector: number of the block's first vector within the group.
    """

    x: Any
    weights: Any
    next_weights: Any
    packed: Any
    y: Any
    added: Any
    vector: Any


class _Nest:
    def __init__(self, plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue) -> None:
        self.plan, self.dtypes, self.epilogue = plan, dtypes, epilogue
        g = plan.geometry
        self.channels_in, self.channels_out = g.groups * g.group_in, g.groups * g.group_out
        self.lines = g.batch * g.out_height
        self.tiles = -(-g.out_width // plan.tile.mr)
        rows, columns = g.segments
        self.block_channels = plan.tile.nv * plan.isa.lanes
        self.block_weights = rows * columns * plan.steps * self.block_channels * plan.depth
        self.line_values = CACHE_LINE // np.dtype(dtypes[1]).itemsize
        # A step reads nv lines of weights, so that this many steps of each tile together cover the next block.
        self.per_chunk = -(-self.lines * self.tiles // self._chunks())
        self.steps_per_fetch = max(1, self.per_chunk // plan.tile.nv)
        self.share = -(-plan.steps * rows * columns // self.steps_per_fetch) * self.line_values
        self.frame = Frame(g.out_height, g.out_width, self.channels_out, *g.frame)

    def _chunks(self) -> int:
        plan, g = self.plan, self.plan.geometry
        blocks = g.groups * plan.blocks
        outputs = self.lines * g.out_width * self.channels_out
        activations = g.batch * g.height * g.width * self.channels_in + outputs
        if blocks >= CHUNKS and blocks * self.block_weights > activations:
            return 1
        return min(CHUNKS, self.lines * self.tiles)

    def build(self) -> tirx.PrimFunc:
        plan, g = self.plan, self.plan.geometry
        blocks, tiles = g.groups * plan.blocks, self.lines * self.tiles
        tasks = blocks * -(-tiles // self.per_chunk)
        loop = T.parallel if tasks > 1 and worth_sharing(g, plan.isa, plan.depth) else T.serial
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            self.x = _argument("x", g.batch * g.height * g.width * self.channels_in, self.dtypes[0])
            self.weights = _argument("weights", blocks * self.block_weights, self.dtypes[1])
            self.bias = _argument("bias", blocks * self.block_channels, self.dtypes[2])
            self.multiplier = _argument("multiplier", blocks * self.block_channels, "float32")
            if self.epilogue.add is not None:
                self.added = _argument("added", self.lines * g.out_width * self.channels_out, self.epilogue.dtype)
            rows = g.batch * self.frame.framed_height
            self.y = _argument("y", rows * self.frame.row_stride, self.epilogue.dtype)
            if not self.frame.empty:
                with T.serial(rows) as r:
                    value = tirx.const(self.epilogue.frame_value, self.epilogue.dtype)
                    self.frame.fill(self.y, r, value, self.plan.isa.lanes * FILLED_VECTORS)
            with loop(tasks) as p:
                self.acc = register_buffer(plan.tile.mr * self.block_channels, self.dtypes[2])
                first = p // blocks * self.per_chunk
                with T.serial(T.min(self.per_chunk, tiles - first)) as t:
                    line, tile = (first + t) // self.tiles, (first + t) % self.tiles
                    self._tile(self._place(p % blocks, line, tile, t))
        return builder.get()

    def _place(self, block: Any, line: Any, tile: Any, number: Any) -> _Place:
        """Return where a tile is, by its channel block, output row, place in the row and number in the chunk."""
        plan, g = self.plan, self.plan.geometry
        group = block // plan.blocks
        column = T.min(tile * plan.tile.mr, g.out_width - plan.tile.mr)
        image, out_row = line // g.out_height, line % g.out_height
        row = image * g.height + out_row * g.strides[0]
        return _Place(
            x=(row * g.width + column * g.strides[1]) * self.channels_in + group * g.group_in,
            weights=block * self.block_weights,
            next_weights=(block + 1) * self.block_weights + number * self.share,
            packed=block * self.block_channels,
            y=self.frame.start(image, out_row) + column * self.channels_out + group * g.group_out,
            added=(line * g.out_width + column) * self.channels_out + group * g.group_out,
            vector=block % plan.blocks * plan.tile.nv,
        )

    def _tile(self, place: _Place) -> None:
        plan, lanes = self.plan, self.plan.isa.lanes
        for v in range(plan.tile.nv):
            bias = self.bias[span(place.packed + v * lanes, lanes)]
            for i in range(plan.tile.mr):
                T.buffer_store(self.acc, bias, [self._register(i, v)])
        self._reduce(place)
        self._finish(place)

    def _reduce(self, place: _Place) -> None:
        plan, g = self.plan, self.plan.geometry
        rows, columns = g.segments
        last = max(g.segment_length - plan.depth, 0)
        if plan.steps <= FUSED_STEPS:
            with T.serial(rows * columns * plan.steps) as s:
                segment = s // plan.steps
                offset = T.min(s % plan.steps * plan.depth, last)
                self._step(place, segment // columns, segment % columns, offset, s)
            return
        overlaps, several = g.segment_length % plan.depth > 0, g.groups * plan.blocks > 1
        with T.serial(rows) as ky, T.serial(columns) as kx:
            first = (ky * columns + kx) * plan.steps
            steps = plan.steps - overlaps
            run = min(steps, self.steps_per_fetch) if several else steps
            runs = -(-steps // run)
            with T.serial(runs) as r:
                if several:
                    self._fetch(place.next_weights + ((ky * columns + kx) * runs + r) * self.line_values, level=2)
                with T.serial(T.min(run, steps - r * run)) as k:
                    self._step(place, ky, kx, (r * run + k) * plan.depth, first + r * run + k)
            if overlaps:
                self._step(place, ky, kx, last, first + plan.steps - 1)

    def _step(self, place: _Place, ky: Any, kx: Any, offset: Any, number: Any) -> None:
        plan, g = self.plan, self.plan.geometry
        width = plan.isa.lanes * plan.depth
        dot = plan.isa.multiply_add if self.dtypes[2] == "float32" else plan.isa.dot
        if self.block_weights * np.dtype(self.dtypes[1]).itemsize > resident_bytes(plan.isa):
            for v in range(plan.tile.nv):
                self._fetch(place.weights + ((number + FETCH_AHEAD) * plan.tile.nv + v) * width, level=1)
        x = place.x + (ky * g.dilation[0] * g.width + kx * g.dilation[1]) * self.channels_in + offset
        for i in range(plan.tile.mr):
            values = self._values(x + i * g.strides[1] * self.channels_in)
            for v in range(plan.tile.nv):
                at = self._register(i, v)
                w = self.weights[span(place.weights + (number * plan.tile.nv + v) * width, width)]
                T.buffer_store(self.acc, dot(self.acc[at], values, w), [at])

    def _fetch(self, weights: Any, level: int) -> None:
        """Have weights brought into the first or second level of the caches."""
        for_reading, locality, data = T.int32(0), T.int32(4 - level), T.int32(1)
        at = self.weights.access_ptr("r", offset=weights)
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", at, for_reading, locality, data))

    def _values(self, start: Any) -> Any:
        """Return `depth` values of x; zeros take the place of what lies behind a segment shorter than that."""
        depth, length = self.plan.depth, self.plan.geometry.segment_length
        if length >= depth:
            return self.x[span(start, depth)]
        zeros = [tirx.const(0, self.dtypes[0])] * (depth - length)
        return T.Shuffle([self.x[start + i] for i in range(length)] + zeros, list(range(depth)))

    def _finish(self, place: _Place) -> None:
        """Finish and store all accumulators, as many together as the epilogue likes."""
        plan = self.plan
        vectors = [(i, v) for i in range(plan.tile.mr) for v in range(plan.tile.nv)]
        together = 1 if plan.narrow else self.epilogue.together
        whole = len(vectors) // together * together
        for first in range(0, whole, together):
            self._store(place, vectors[first : first + together])
        for vector in vectors[whole:]:
            self._store(place, [vector])

    def _store(self, place: _Place, vectors: list[tuple[int, int]]) -> None:
        plan, g, lanes = self.plan, self.plan.geometry, self.plan.isa.lanes
        multipliers = [self.multiplier[span(place.packed + v * lanes, lanes)] for _, v in vectors]
        result = self.epilogue.finish([self.acc[self._register(i, v)] for i, v in vectors], multipliers)
        # Where each run of lanes lies from the first pixel's first value on, and how many lanes it has.
        runs = [
            (i * self.channels_out + T.min((place.vector + v) * lanes, g.group_out - lanes), count * lanes)
            for i, v, count in self._runs(vectors)
        ]
        if plan.narrow:
            runs = [(vectors[0][0] * self.channels_out, lanes)]
        if self.epilogue.add is not None:
            added = joined([self._load(self.added, place.added + at, count) for at, count in runs])
            result = self.epilogue.add(result, added)
        if plan.narrow:
            self._store_lanes(place.y + runs[0][0], result)
            return
        first = 0
        for at, count in runs:
            T.buffer_store(self.y, part(result, first, count), [span(place.y + at, count)])
            first += count

    def _load(self, buffer: Any, start: Any, lanes: int) -> Any:
        """Load lanes of a tensor of the output's shape; a narrow group's last lanes repeat its last channel."""
        if not self.plan.narrow:
            return buffer[span(start, lanes)]
        last = self.plan.geometry.group_out - 1
        return T.Shuffle([buffer[start + min(c, last)] for c in range(lanes)], list(range(lanes)))

    def _runs(self, vectors: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Cut (pixel, vector) pairs into runs that lie together in the output: (pixel, vector, how many vectors)."""
        if self.channels_out == self.block_channels:
            return [(*vectors[0], len(vectors))]
        if self.plan.geometry.group_out % self.block_channels > 0:
            return [(i, v, 1) for i, v in vectors]
        pixels = [list(run) for _, run in itertools.groupby(vectors, key=lambda vector: vector[0])]
        return [(*run[0], len(run)) for run in pixels]

    def _store_lanes(self, start: Any, values: Any) -> None:
        """Store as many values of a vector as a group has channels."""
        lanes = self.plan.isa.lanes
        few = register_buffer(lanes, self.epilogue.dtype)
        T.buffer_store(few, values, [span(0, lanes)])
        for c in range(self.plan.geometry.group_out):
            T.buffer_store(self.y, few[c], [start + c])

    def _register(self, i: int, v: int) -> Any:
        lanes = self.plan.isa.lanes
        return span((i * self.plan.tile.nv + v) * lanes, lanes)


def _argument(name: str, size: int, dtype: str) -> Any:
    return T.arg(name, T.buffer((size,), dtype))
