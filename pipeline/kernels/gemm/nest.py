"""The loop nest of every convolution and matrix product, for all instruction sets and for int8 and float32.

A convolution is a sum over *segments*: runs of bytes that lie together in the NHWC input. With no dilation one kernel
row is a segment of KW * C values, as neighbouring pixels are neighbours in memory; otherwise each tap is one, of C
values. A matrix product, or a 1x1 convolution, has one segment of C values, and all its pixels form one row. No im2col,
no edges: padding is an operator of its own, which has run before.

The nest, from outside: chunk of the tiles and run of the channel blocks, in parallel | group, channel block | tile |
segment | step of `dot_depth` values | register tile of mr pixels x nv vectors. Threads get neighbouring chunks, so that
they don't write into each other's cache lines; where weights far outweigh activations, there is one chunk, and threads
share channel blocks.
Weights are packed in the order in which the nest reads them:

    [group][channel block][segment][step][nv][lanes][dot_depth]

While a channel block is computed, its tiles prefetch the next one's weights, evenly spread, so that their coming from
the third-level cache or from memory costs nothing: in a whole network, weights are hardly ever near.

Weights of 4 bits are stored two in a byte, and a channel block's are unpacked, to memory that stays in the second-level
cache, before its tiles: from farther memory, half as many bytes come.

What doesn't divide is computed twice, not masked: the last tile of a row overlaps the one before, and so do the last
block of channels and the last step of a segment (there with zero weights for what has been counted). If a last block
would have many weights twice, it gets a tile of fewer vectors and loops of its own, the *tail*. Where one block has all
channels, its last vector may be half as long: 24 channels are one and a half vectors of 16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.epilogue import Addends, Epilogue
from pipeline.kernels.gemm.micro_kernel import accumulate, begin, step_values
from pipeline.kernels.gemm.parallel import TASKS, chunks_and_runs, worth_threads
from pipeline.kernels.gemm.plan import Plan
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import prefetch, register_buffer, store_narrow, workspace
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.vectors import joined, lanes_of, part, span
from pipeline.kernels.machine import CACHE_LINE

FILLED_VECTORS = 4
"""Vectors of a halo that are written by one step."""

PREFETCH_DISTANCE = 16
"""How many steps ahead weights come into the first-level cache, if they don't stay there from tile to tile."""

FUSED_STEPS = 8
"""Of so short loops, LLVM would unroll each completely, and then run out of registers."""


@dataclass(frozen=True)
class Place:
    """Where a tile is: offsets into the buffers, as TIR expressions.

    Attributes:
        x: of the first pixel's first value.
        weights, packed: of the channel block's weights, and of its multipliers.
        bias: of what the channel block's accumulators begin with.
        above, below: how many rows of the kernel are left out at its top and at its bottom.
        next_weights: of those weights of the next block that this tile prefetches into the second-level cache.
        y: of the first pixel's first value in the group.
        added: the same in the tensor that the epilogue adds.
        sums: of the first accumulator, where they are kept for several tiles.
    """

    x: Any
    weights: Any
    next_weights: Any
    packed: Any
    bias: Any
    above: Any
    below: Any
    y: Any
    added: Any
    sums: Any


@dataclass(frozen=True)
class Origin:
    """Where a nest's first channel block is.

    Attributes:
        channel: its first channel.
        weights, packed: its offset in the weights, and in bias and multipliers.
    """

    channel: int = 0
    weights: int = 0
    packed: int = 0


class Nest:
    """The loop nest, with its accumulators in vector registers.

    Where an instruction set sums elsewhere, a subclass overrides what touches the accumulators: `allocate`, `release`,
    `register` and `compute`.
    """

    def __init__(self, plan: Plan, dtypes: tuple[str, str, str], epilogue: Epilogue) -> None:
        self.plan, self.dtypes, self.epilogue = plan, dtypes, epilogue
        g = plan.geometry
        self.channels_in, self.channels_out = g.groups * g.group_in, g.groups * g.group_out
        self.bands = -(-g.out_height // plan.tile.lines)
        self.tiles = -(-g.out_width // plan.tile.columns)
        self.all_tiles = g.batch * self.bands * self.tiles
        self.block_channels, self.block_weights = plan.block_channels, plan.block_weights
        self.line_values = CACHE_LINE // np.dtype(dtypes[1]).itemsize
        self.blocks = g.groups * plan.blocks
        self.chunks, self.runs = chunks_and_runs(
            self.all_tiles, self.blocks, outweighed=self._outweighed(), most_chunks=self.most_chunks()
        )
        self.per_chunk = -(-self.all_tiles // self.chunks)
        self.total_steps = plan.total_steps
        # All tiles of a chunk together prefetch as many lines of the next block as they read of this one.
        step_lines = -(-self.block_channels * plan.depth // self.line_values)
        self.steps_per_prefetch = max(1, self.per_chunk // step_lines)
        self.lines_per_prefetch = -(-step_lines // self.per_chunk)
        self.prefetched_values = self.lines_per_prefetch * self.line_values
        self.tile_prefetch = -(-self.total_steps // self.steps_per_prefetch) * self.prefetched_values
        self.halo = Halo(g.out_height, g.out_width, self.channels_out, *g.halo)
        self.added_halo = Halo(g.out_height, g.out_width, self.channels_out, *g.added_halo)
        self.origin = Origin()
        self.addends: Addends | None = None
        self.unpacks, self.int4_run = plan.weight_bits == 4, plan.int4_run
        self.tail = self._tail()

    def _tail(self) -> Nest | None:
        """Return the nest of the last block of channels, if it has a tile of its own."""
        plan = self.plan
        if len(plan.parts) == 1:
            return None
        whole, part = plan.parts
        tail = type(self)(part, self.dtypes, self.epilogue)
        tail.channels_out, tail.halo, tail.added_halo = self.channels_out, self.halo, self.added_halo
        tail.int4_run = self.int4_run
        channel = plan.geometry.group_out - part.geometry.group_out
        tail.origin = Origin(channel, whole.blocks * self.block_weights, whole.blocks * self.block_channels)
        return tail

    def _outweighed(self) -> float:
        """Return how many times as many values weights have as activations."""
        g = self.plan.geometry
        outputs = g.batch * g.out_height * g.out_width * self.channels_out
        activations = g.batch * g.height * g.width * self.channels_in + outputs
        return self.blocks * self.block_weights / activations

    def most_chunks(self) -> int:
        """Return into how many chunks tiles are cut at most, a power of two. Activations of small ones stay near."""
        return TASKS

    def build(self) -> tirx.PrimFunc:
        """Return the function (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat."""
        g, blocks, tasks = self.plan.geometry, self.blocks, self.chunks * self.runs
        weights = sum(g.groups * part.blocks * part.block_weights for part in self.plan.parts)
        channels = sum(g.groups * part.blocks * part.block_channels for part in self.plan.parts)
        loop = T.parallel if tasks > 1 and self.worth_threads() else T.serial
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": self.weights_may_be_kept(), "op_pattern": 8})
            self.x = _argument("x", g.batch * g.height * g.width * self.channels_in, self.dtypes[0])
            size, dtype = (weights // 2, "int8") if self.unpacks else (weights, self.dtypes[1])
            self.stored = self.weights = _argument("weights", size, dtype)
            self.more_arguments()
            starts = len(self.plan.left_out.counts) if self.plan.leaves_out else 1
            self.bias = _argument("bias", channels * starts, self.dtypes[2])
            self.packed_channels = channels
            self.multiplier = _argument("multiplier", channels * self.epilogue.scales, "float32")
            if self.epilogue.add is not None:
                size = g.batch * self.added_halo.padded_height * self.added_halo.row_stride
                self.added = _argument("added", size, self.epilogue.added_dtype)
            rows = g.batch * self.halo.padded_height
            self.y = _argument("y", rows * self.halo.row_stride, self.epilogue.dtype)
            self.prepare(loop)
            if self.tail is not None:
                self.tail.use_buffers(self)
            with self.plan.isa.functions(), loop(tasks) as p:
                width = self.plan.isa.lanes * FILLED_VECTORS
                self.halo.fill_part(self.y, rows, p, tasks, self.epilogue.halo_value, width)
                for nest in filter(None, (self, self.tail)):
                    nest.allocate()
                    if nest.epilogue.addends:
                        nest.addends = Addends(nest.epilogue, nest.plan.isa, nest.plan.tile.nv)
                    if self.unpacks:
                        nest.weights = workspace(nest.block_weights, self.dtypes[1])
                # Shares differ by one at most. A thread gets neighbouring tasks, which have the same tiles.
                tile, next_tile = (c * self.all_tiles // self.chunks for c in (p // self.runs, p // self.runs + 1))
                block, next_block = (r * blocks // self.runs for r in (p % self.runs, p % self.runs + 1))
                self.compute(block, next_block - block, tile, next_tile - tile)
                self.release()
        return builder.get()

    def more_arguments(self) -> None:
        """Declare further arguments, between weights and bias."""

    def prepare(self, loop: Callable[[int], Any]) -> None:
        """Do what comes before all tiles; `loop` is parallel where the operation is large enough for that."""

    def use_buffers(self, other: Nest) -> None:
        """Read and write what another nest reads and writes."""
        self.x, self.stored, self.weights, self.bias = other.x, other.stored, other.weights, other.bias
        self.multiplier, self.y = other.multiplier, other.y
        self.packed_channels = other.packed_channels
        if self.epilogue.add is not None:
            self.added = other.added

    def compute(self, first_block: Any, blocks: Any, first: Any, count: Any) -> None:
        """Compute `count` tiles, from number `first` on, of `blocks` channel blocks, from `first_block` on."""
        with T.serial(blocks) as b:
            if self.tail is None:
                self._compute_block(first_block + b, first, count)
                return
            with T.If(first_block + b < self.blocks - 1):
                with T.Then():
                    self._compute_block(first_block + b, first, count)
                with T.Else():
                    self.tail._compute_block(0, first, count)

    def _compute_block(self, block: Any, first: Any, count: Any) -> None:
        if self.unpacks:
            self._unpack(block)
        if self.addends is not None:
            scales, nv = self._scales(self.first_packed(block)), self.plan.tile.nv
            self.addends.prepare(*(scales[first : first + nv] for first in range(0, len(scales), nv)))
        self.compute_tiles(block, first, count)

    def compute_tiles(self, block: Any, first: Any, count: Any) -> None:
        """Compute `count` tiles of a channel block, from number `first` on."""
        with T.serial(count) as t:
            self.compute_tile(self.place(block, first, t))

    def compute_tile(self, place: Place) -> None:
        """Compute and store a tile."""
        if self.epilogue.add is not None:
            self.prefetch_added(place)
        self.start(place)
        self.reduce(place)
        # Else LLVM would read them again after each store, which might have changed them.
        multipliers, groups = [T.bind(multiplier) for multiplier in self.multipliers(place)], self.finished_together()
        loads = None
        if self.addends is not None:
            runs = dict.fromkeys(run for vectors in groups for run in _neighbours(vectors))
            loads = self.addends.loads(runs, self.sums_in_registers())
        for vectors in groups:
            self.finish(place, vectors, multipliers, loads)

    def _unpack(self, block: Any) -> None:
        """Unpack the weights of a channel block, which `packing.join_int4` has packed."""
        run = self.int4_run
        first, four = block * (self.block_weights // 2) + self.origin.weights // 2, T.broadcast(T.int8(4), run)
        with T.serial(self.block_weights // (2 * run)) as k:
            both = T.bind(self.stored[span(first + k * run, run)])
            for half, values in enumerate((T.shift_right(T.shift_left(both, four), four), T.shift_right(both, four))):
                at = span((2 * k + half) * run, run)
                T.buffer_store(self.weights, T.cast(values, f"{self.dtypes[1]}x{run}"), [at])

    def worth_threads(self) -> bool:
        """Return whether this is large enough for several threads."""
        return worth_threads(self.plan.geometry, self.plan.isa, self.plan.depth)

    def weights_may_be_kept(self) -> bool:
        """Return whether LLVM may read weights once for all tiles, as the output doesn't overlap them.

        It would, if it unrolls a reduction, and put on the stack what doesn't fit the registers.
        """
        tile = self.plan.tile
        return tile.mr * tile.nv + self.total_steps * tile.nv < self.plan.isa.registers

    def allocate(self) -> None:
        """Declare the accumulators."""
        self.acc = register_buffer(self.plan.tile.mr * self.block_channels, self.dtypes[2])

    def release(self) -> None:
        """Give back what `allocate` took, at the end of a task."""

    def place(self, block: Any, first: Any, number: Any) -> Place:
        """Return where a tile is, by its channel block, the chunk's first tile and its own number in the chunk."""
        return self.place_in(block, (first + number) // self.tiles, (first + number) % self.tiles, number)

    def place_in(self, block: Any, band: Any, tile: Any, number: Any) -> Place:
        """Return where a tile is.

        Args:
            block: its channel block.
            band: of the rows that tiles are in, counted through all images.
            tile: its number in the band.
            number: the same in the chunk.
        """
        plan, g = self.plan, self.plan.geometry
        group = block // plan.blocks
        column = tails.start(tile, plan.tile.columns, g.out_width)
        image, band = (0, band) if g.batch == 1 else (band // self.bands, band % self.bands)
        out_row = tails.start(band, plan.tile.lines, g.out_height)
        row = image * g.height + out_row * g.strides[0]
        channel = group * g.group_out + tails.start(block % plan.blocks, self.block_channels, g.group_out)
        channel = channel + self.origin.channel
        packed, above, below = self.first_packed(block), 0, 0
        bias = packed
        if plan.leaves_out:
            above, below = T.bind(plan.left_out.above(out_row)), T.bind(plan.left_out.below(out_row))
            bias = packed + plan.left_out.number(above, below) * self.packed_channels
        return Place(
            x=self.first_value(row, column, tile) + group * g.group_in,
            weights=0 if self.unpacks else block * self.block_weights + self.origin.weights,
            next_weights=(block + 1) * self.block_weights + number * self.tile_prefetch,
            packed=packed,
            bias=bias,
            above=above,
            below=below,
            y=self.halo.start(image, out_row) + column * self.channels_out + channel,
            added=self.added_halo.start(image, out_row) + column * self.channels_out + channel,
            sums=0,
        )

    def first_packed(self, block: Any) -> Any:
        """Return where a channel block's bias and multipliers are."""
        return block * self.block_channels + self.origin.packed

    def first_value(self, row: Any, column: Any, tile: Any) -> Any:
        """Return where a tile's first value is.

        Args:
            row: of the input, counted through all images.
            column: of the output.
            tile: number of the tile in its row.
        """
        g = self.plan.geometry
        return (row * g.width + column * g.strides[1]) * self.channels_in

    def start(self, place: Place) -> None:
        """Set all accumulators to the bias."""
        plan, lanes = self.plan, self.plan.isa.lanes
        begin(
            self.acc,
            plan.tile.mr,
            plan.tile.nv,
            functools.partial(self.register, place),
            lambda v: self.bias[span(place.bias + v * lanes, plan.vector_lanes(v))],
        )

    def reduce(self, place: Place) -> None:
        """Add all products to a tile's accumulators."""
        plan, g = self.plan, self.plan.geometry
        rows, columns = g.segments
        if plan.steps <= FUSED_STEPS:
            with T.serial(rows * columns * plan.steps) as s:
                segment = s // plan.steps
                offset = tails.start(s % plan.steps, plan.depth, g.segment_length)
                self.step(place, segment // columns, segment % columns, offset, s)
            return
        overlaps, several = g.segment_length % plan.depth > 0, self.blocks > 1 and not self.unpacks
        with T.serial(rows) as ky, T.serial(columns) as kx:
            first = (ky * columns + kx) * plan.steps
            steps = plan.steps - overlaps
            run = min(steps, self.steps_per_prefetch) if several else steps
            runs = -(-steps // run)
            with T.serial(runs) as r:
                if several:
                    start = place.next_weights + ((ky * columns + kx) * runs + r) * self.prefetched_values
                    for line in range(self.lines_per_prefetch):
                        prefetch(self.weights, start + line * self.line_values, level=2)
                with T.serial(T.min(run, steps - r * run)) as k:
                    self.step(place, ky, kx, (r * run + k) * plan.depth, first + r * run + k)
            if overlaps:
                last = tails.start(plan.steps - 1, plan.depth, g.segment_length)
                self.step(place, ky, kx, last, first + plan.steps - 1)

    def step(self, place: Place, ky: Any, kx: Any, offset: Any, number: Any) -> None:
        """Add the products of one step to all accumulators.

        Args:
            place: the tile.
            ky: the segment's place along the kernel's height.
            kx: the same along its width.
            offset: of the step's first value in the segment.
            number: of the step, through all segments.
        """
        plan = self.plan
        lanes, step_weights = plan.isa.lanes, self.block_channels * plan.depth
        if self.block_weights * np.dtype(self.dtypes[1]).itemsize > plan.machine.resident_bytes:
            for v in range(plan.tile.nv):
                ahead = place.weights + (number + PREFETCH_DISTANCE) * step_weights + v * lanes * plan.depth
                prefetch(self.weights, ahead, level=1)
        x = place.x + self.segment(ky, kx) + offset
        accumulate(
            self.acc,
            plan.tile.mr,
            plan.tile.nv,
            functools.partial(self.register, place),
            self.dot,
            lambda i: step_values(self.x, x + self.input_offset(i), plan.depth, plan.geometry.segment_length),
            lambda v: self.weights[
                span(place.weights + number * step_weights + v * lanes * plan.depth, plan.vector_lanes(v) * plan.depth)
            ],
        )

    def dot(self, acc: Any, values: Any, weights: Any) -> Any:
        """Return an accumulator plus the products of a pixel's values as they are stored, and weights."""
        isa = self.plan.isa
        if isa.half is not None and lanes_of(acc) == isa.half.lanes:
            isa = isa.half
        if self.dtypes[0] == "float32":
            return isa.multiply_add(acc, values, weights)
        if self.dtypes[0] == "int16":
            return isa.dot_int16(acc, values, weights)
        return isa.dot_int4(acc, values, weights) if self.unpacks else isa.dot(acc, isa.activations(values), weights)

    def activations(self, values: Any) -> Any:
        """Return values of the input as they are multiplied."""
        return values if self.dtypes[0] in ("float32", "int16") else self.plan.isa.activations(values)

    def segment(self, ky: Any, kx: Any) -> Any:
        """Return the offset of a segment from the pixel's first value in x."""
        g = self.plan.geometry
        return (ky * g.dilation[0] * g.width + kx * g.dilation[1]) * self.channels_in

    def input_offset(self, i: int) -> int:
        """Return the offset of the tile's pixel i from its first in x."""
        g = self.plan.geometry
        return self._pixel(i, g.strides[0] * g.width * self.channels_in, g.strides[1] * self.channels_in)

    def _pixel(self, i: int, line_stride: int, column_stride: int) -> int:
        line, column = divmod(i, self.plan.tile.columns)
        return line * line_stride + column * column_stride

    def prefetch_added(self, place: Place) -> None:
        """Have what the epilogue will add brought near while the tile is computed.

        A tile's pixels are too far apart for the CPU to guess the next one.
        """
        plan = self.plan
        per_line = max(1, CACHE_LINE // np.dtype(self.epilogue.added_dtype).itemsize // plan.isa.lanes)
        for i in range(plan.tile.mr):
            for v in range(0, plan.tile.nv, per_line):
                prefetch(self.added, place.added + self._output(i, v, self.added_halo.row_stride), level=1)

    def finished_together(self) -> list[list[tuple[int, int]]]:
        """Return all (pixel, vector) pairs of a tile, in groups that the epilogue takes together."""
        mr, nv = self.plan.tile.mr, self.plan.tile.nv
        together = 1 if self.plan.narrow else self.epilogue.together
        if self.plan.half:
            # Two pixels' halves make a vector; what is left over of an odd number of pixels is finished by itself.
            paired = mr // 2 * 2 if together > 1 else 0
            filled = [[(i, v)] for i in range(mr) for v in range(nv - 1)]
            filled += [[(i, nv - 1), (i + 1, nv - 1)] for i in range(0, paired, 2)]
            firsts = range(0, len(filled), together)
            groups = [[*itertools.chain(*filled[first : first + together])] for first in firsts]
            return groups + [[(i, nv - 1)] for i in range(paired, mr)]
        if self.channels_out == self.block_channels:
            vectors = [(i, v) for i in range(mr) for v in range(nv)]
            groups = [vectors[first : first + together] for first in range(0, len(vectors), together)]
        else:
            # Vectors of one pixel lie together; what is left over of some pixels is finished together, too.
            whole = nv // together * together
            groups = [[(i, v + k) for k in range(together)] for i in range(mr) for v in range(0, whole, together)]
            pixels = together // max(nv - whole, 1)
            left = [(i, v) for i in range(mr) for v in range(whole, nv)]
            step = pixels * (nv - whole)
            groups += [left[first : first + step] for first in range(0, len(left), max(step, 1))]
        return groups

    def finish(
        self,
        place: Place,
        vectors: list[tuple[int, int]],
        multipliers: list[Any],
        loads: Callable[..., dict[str, Any]] | None = None,
    ) -> None:
        """Finish and store the accumulators of some (pixel, vector) pairs.

        Args:
            place: the tile.
            vectors: the pairs.
            multipliers: what `multipliers` returns.
            loads: what `Addends.loads` returns, if the epilogue has any.
        """
        plan = self.plan
        accumulators = self._filled([self.sums(place, i, v) for i, v in vectors])
        of_scales = (multipliers[k * plan.tile.nv :] for k in range(self.epilogue.scales))
        scales = [self._filled([own[v] for _, v in vectors]) for own in of_scales]
        result = self.epilogue.finish(accumulators, *scales, **({} if loads is None else loads(_neighbours(vectors))))
        runs = self._runs(vectors)
        if self.epilogue.add is not None:
            row = self.added_halo.row_stride
            added = [self._load(self.added, place.added + self._output(i, v, row), n) for i, v, n in runs]
            result = self.epilogue.add(result, joined(added))
        if len(runs) > 1 and not self.weights_may_be_kept():
            # Where the output may overlap the constants, LLVM would compute it again for each of the stores.
            result = T.bind(result)
        first = 0
        for i, v, count in runs:
            start, values = place.y + self._output(i, v, self.halo.row_stride), part(result, first, count)
            if plan.narrow:
                store_narrow(self.y, start, values, count, plan.geometry.group_out)
            else:
                T.buffer_store(self.y, values, [span(start, count)])
            first += count

    def sums_in_registers(self) -> list[Any]:
        """Return the vectors of accumulators, as int32, if what the epilogue loads has to wait for them."""
        return []

    def multipliers(self, place: Place) -> list[Any]:
        """Return the multipliers of a block, as many vectors as it has, and then as many of each further scale."""
        return self._scales(place.packed)

    def _scales(self, packed: Any) -> list[Any]:
        plan, starts = self.plan, [k * self.packed_channels for k in range(self.epilogue.scales)]
        vectors = [(start + v * plan.isa.lanes, plan.vector_lanes(v)) for start in starts for v in range(plan.tile.nv)]
        return [self.multiplier[span(packed + first, lanes)] for first, lanes in vectors]

    def _filled(self, vectors: list[Any]) -> list[Any]:
        """Return vectors of which neighbouring halves are joined."""
        whole = [v for v in vectors if lanes_of(v) == self.plan.isa.lanes]
        halves = [v for v in vectors if lanes_of(v) < self.plan.isa.lanes]
        return whole + [joined(halves[first : first + 2]) for first in range(0, len(halves), 2)]

    def _output(self, i: int, v: int, row_stride: int) -> int:
        """Return the offset of a pixel's vector from the first pixel's first value in the block."""
        return self._pixel(i, row_stride, self.channels_out) + self.plan.vector_channel(v)

    def _load(self, buffer: Any, start: Any, lanes: int) -> Any:
        """Load lanes of a tensor of the output's shape; a narrow group's last lanes repeat its last channel."""
        if not self.plan.narrow:
            return buffer[span(start, lanes)]
        last = self.plan.geometry.group_out - 1
        return T.Shuffle([buffer[start + min(c, last)] for c in range(lanes)], list(range(lanes)))

    def _runs(self, vectors: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
        """Cut (pixel, vector) pairs into runs that lie together in the output: (pixel, vector, how many channels)."""
        if self.plan.geometry.group_out < self.block_channels or self.plan.half:
            return [(i, v, self.plan.vector_lanes(v)) for i, v in vectors]
        # Pixels without other channels between them lie together, too, up to the end of their line.
        per_run = self.plan.tile.columns if self.channels_out == self.block_channels else 1
        runs = [list(run) for _, run in itertools.groupby(vectors, key=lambda vector: vector[0] // per_run)]
        return [(*run[0], len(run) * self.plan.isa.lanes) for run in runs]

    def sums(self, place: Place, i: int, v: int) -> Any:
        """Return the finished sums of pixel i and vector v."""
        return self.acc[self.register(place, i, v)]

    def register(self, place: Place, i: int, v: int) -> Any:
        """Return the place in `acc` of the sums of pixel i and vector v."""
        return span(i * self.block_channels + v * self.plan.isa.lanes, self.plan.vector_lanes(v))


def _neighbours(vectors: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cut (pixel, vector) pairs into runs of a pixel's neighbouring vectors: (first vector, how many)."""
    runs: list[tuple[int, int]] = []
    for k, (i, v) in enumerate(vectors):
        if k > 0 and vectors[k - 1] == (i, v - 1):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((v, 1))
    return runs


def _argument(name: str, size: int, dtype: str) -> Any:
    return T.arg(name, T.buffer((size,), dtype))
