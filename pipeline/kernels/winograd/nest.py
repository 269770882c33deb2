"""Convolutions of 3x3 by Winograd's transforms (`transforms`), on instruction sets that multiply values of 16 bits.

    for band of tiles of 4x4 outputs:                 as many as the second-level cache holds the inputs of
        for tile, in parallel unless bands are:
            for vector of input channels:             inputs transformed: [position][tile][channel]
        for block of output channels, the same:
            for chunk of input channels:              as many as that cache holds a block's weights of
                for step of input channels:           weights transformed: [position][step][channel][depth]
                for group of tiles:
                    for position of 6x6:
                        for step of input channels:   register tile: tiles by channels of the block
                    for tile, after the last chunk:
                        for vector of channels:       outputs transformed
                        for pixel of 4x4:             requantized, stored

A step is one input channel, or two where an instruction adds neighbouring products (`int16_depth`).

Transformed weights are eight times as large as weights are in a library, so they are made where they are used, which is
a tenth of the work or less where there are some tens of tiles. As everywhere (`lib/tails.py`), what doesn't divide
overlaps. Where one block has all output channels, its last vector may be half as long: then weights of two steps are
transformed together, and outputs of two pixels requantized, as these are whole vectors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.epilogue import MOST, Epilogue, requantize
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.gemm.parallel import worth_threads
from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import prefetch, register_buffer, stack_buffer, view, workspace
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.modular import Modular
from pipeline.kernels.lib.vectors import joined, part, span
from pipeline.kernels.machine import CACHE_LINE, Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.winograd.plan import MIDDLE, WinogradPlan
from pipeline.kernels.winograd.transforms import (
    INVERSE_OF_NINE,
    KERNEL,
    POSITIONS,
    SHIFT,
    TILE,
    WINDOW,
    in_both_dimensions,
    transform_input,
    transform_output,
    transform_weights,
)
from pipeline.ops import QConv2dAdd

Array = npt.NDArray[Any]

PIXELS = TILE * TILE

OF_ONES = [*itertools.chain(*in_both_dimensions(transform_input, [[1] * WINDOW] * WINDOW))]
"""What a tile of ones becomes. Most of it is zeros: of what all inputs have in common, little is left."""


def winograd(operation: Operation, machine: Machine) -> Kernel:
    """Multiply what is transformed with `isa.multiply_words`."""
    plan = WinogradPlan.choose(geometry_of(operation), machine)
    if plan is None:
        raise TypeError(f"Expected a qnn.conv2d whose channels fill vectors, got {operation.operator}")
    # Copying what is added takes as long as a conversion.
    as_floats = machine.isa.has(Capability.FUSED_MULTIPLY_ADD) and not machine.isa.overwrites_addends
    constants = IntegerConstants.of(operation, as_floats=as_floats, activation_offset=MIDDLE)
    epilogue = requantize(constants, machine.isa)
    channels = plan.channels()
    finished = np.tile(channels.reshape(plan.blocks, -1), plan.pixels_together).reshape(-1)
    packed = pack_weights(plan, constants.weight), constants.start[finished], constants.multiplier[finished]
    added = (4,) if isinstance(operation.operator, QConv2dAdd) else ()
    return Kernel(_built(plan, operation.inputs[0].dtype, epilogue), (0, *packed, *added))


@functools.lru_cache(maxsize=MOST)
def _built(plan: WinogradPlan, stored: str, epilogue: Epilogue) -> tirx.PrimFunc:
    # A model has equal layers, and is lowered several times, with other constants.
    return WinogradNest(plan, stored, epilogue).build()


def pack_weights(plan: WinogradPlan, weight: Array) -> Array:
    """Return OHWI weights as they are transformed: [block][step][9][channel of the block][depth], flat.

    Of steps that are transformed together, the weights of one tap follow each other.
    """
    steps = -1, plan.steps_together, plan.depth
    blocks = weight[plan.channels()].reshape(plan.blocks, plan.block_channels, KERNEL * KERNEL, *steps)
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 4, 1, 5)).reshape(-1)


class WinogradNest:
    """The loops of the module's docstring."""

    def __init__(self, plan: WinogradPlan, stored: str, epilogue: Epilogue) -> None:
        self.plan, self.stored, self.epilogue = plan, stored, epilogue
        self.isa, self.geometry = plan.isa, plan.geometry
        g = plan.geometry
        self.halo = Halo(g.out_height, g.out_width, g.group_out, *g.halo)
        self.added_halo = Halo(g.out_height, g.out_width, g.group_out, *g.added_halo)
        self.group_products = POSITIONS * plan.together * plan.block_channels
        self.block_weights = g.group_in * KERNEL * KERNEL * plan.block_channels

    def build(self) -> tirx.PrimFunc:
        """Return the function (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat."""
        plan, g, blocks = self.plan, self.geometry, self.plan.blocks
        rows = g.batch * self.halo.padded_height
        loop = T.parallel if worth_threads(g, self.isa, 1) else T.serial
        bands_loop, self.loop = (loop, T.serial) if plan.bands_are_tasks else (T.serial, loop)
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            self.x = _argument("x", g.batch * g.height * g.width * g.group_in, self.stored)
            self.weights = _argument("weights", blocks * self.block_weights, "int8")
            finished = blocks * plan.pixels_together * plan.block_channels
            self.bias = _argument("bias", finished, "int32")
            self.multiplier = _argument("multiplier", finished, "float32")
            if self.epilogue.add is not None:
                size = g.batch * self.added_halo.padded_height * self.added_halo.row_stride
                self.added = _argument("added", size, self.epilogue.added_dtype)
            self.y = _argument("y", rows * self.halo.row_stride, self.epilogue.dtype)
            with self.isa.functions(), bands_loop(plan.bands) as band:
                self.inputs = workspace(POSITIONS * plan.position_inputs, "int16")
                first_tile = tails.start(band, plan.band_tiles, plan.tiles)
                with self.loop(plan.band_tiles) as tile:
                    self._transform_inputs(first_tile, tile)
                with self.loop(blocks) as block:
                    task, tasks = band * blocks + block, plan.bands * blocks
                    self.halo.fill_part(self.y, rows, task, tasks, self.epilogue.halo_value, plan.block_channels)
                    self._compute_block(first_tile, block)
        return builder.get()

    def _place(self, tile: Any) -> tuple[Any, Any, Any]:
        """Return a tile's image, and its first row and column of the output."""
        plan, g = self.plan, self.geometry
        band = tile // plan.tile_columns
        row = tails.start(band % plan.tile_rows, TILE, g.out_height)
        return band // plan.tile_rows, row, tails.start(tile % plan.tile_columns, TILE, g.out_width)

    def _transform_inputs(self, first_tile: Any, tile: Any) -> None:
        """Transform a tile's inputs, vector by vector."""
        plan, g = self.plan, self.geometry
        image, row, column = self._place(first_tile + tile)
        start = ((image * g.height + row) * g.width + column) * g.group_in
        line, words = g.width * g.group_in, plan.words
        with T.serial(g.group_in // words) as k:
            x = view(self.x, start + k * words, (WINDOW - 1) * (line + g.group_in) + words)

            def value(i: int, j: int) -> Modular:
                return Modular(T.bind(T.cast(x[span(i * line + j * g.group_in, words)], f"int16x{words}")))

            window = [[value(i, j) for j in range(WINDOW)] for i in range(WINDOW)]
            at = tile * g.group_in + k * words
            for number, result in enumerate(_flat(in_both_dimensions(transform_input, window))):
                missing = 0 if self.stored == "int8" else -MIDDLE * OF_ONES[number]
                transformed = result.value if missing == 0 else result.value + T.broadcast(T.int16(missing), words)
                T.buffer_store(self.inputs, transformed, [span(number * plan.position_inputs + at, words)])

    def _compute_block(self, first_tile: Any, block: Any) -> None:
        """Compute a block of output channels of a band's tiles."""
        plan = self.plan
        self.transformed = workspace(POSITIONS * plan.position_weights, "int16")
        # Sums of several chunks have to be kept for all groups, those of the only one but for the group at hand.
        slots = plan.groups if plan.chunks > 1 else 1
        self.products = workspace(slots * self.group_products, "int32")
        self.sums = stack_buffer(PIXELS * plan.block_channels, "int32")
        self.acc = register_buffer(plan.together * plan.block_channels, "int32")
        with T.serial(plan.chunks) as chunk:
            with T.serial(plan.chunk_steps // plan.steps_together) as steps:
                self._transform_weights(block, chunk, steps)
            with T.serial(plan.groups) as group:
                first = tails.start(group, plan.together, plan.band_tiles)
                slot = group * self.group_products if plan.chunks > 1 else 0
                with T.serial(POSITIONS) as position:
                    at = slot + position * plan.together * plan.block_channels
                    self._prefetch(block, chunk, group * POSITIONS + position)
                    self._load_sums(at, chunk)
                    self._multiply(position, first, chunk)
                    self._store_sums(at)
                with T.If(chunk == plan.chunks - 1), T.Then(), T.serial(plan.together) as i:
                    self._transform_outputs(slot + i * plan.block_channels)
                    self._finish(first_tile + first + i, block)

    def _prefetch(self, block: Any, chunk: Any, number: Any) -> None:
        """Fetch a part of what the next chunk's weights are made from, while this one's are multiplied."""
        plan = self.plan
        chunk_weights = plan.chunk_steps * KERNEL * KERNEL * plan.step_weights
        start = block * self.block_weights + (chunk + 1) * chunk_weights
        lines = -(-chunk_weights // (plan.groups * POSITIONS * CACHE_LINE))
        for line in range(lines):
            prefetch(self.weights, start + (number * lines + line) * CACHE_LINE, level=2)

    def _load_sums(self, at: Any, chunk: Any) -> None:
        """Set accumulators to zero, or from the second chunk on to what they were."""

        def set_to(value: Callable[[int, int], Any]) -> None:
            for i, v in self._sums():
                T.buffer_store(self.acc, value(i, v), [self._place_of_sums(i, v)])

        def zeros(_: int, v: int) -> Any:
            return T.broadcast(T.int32(0), self.plan.vector_isa(v).lanes)

        if self.plan.chunks == 1:
            set_to(zeros)
            return
        with T.If(chunk == 0):
            with T.Then():
                set_to(zeros)
            with T.Else():
                set_to(lambda i, v: self.products[self._place_of_sums(i, v, at)])

    def _store_sums(self, at: Any) -> None:
        for i, v in self._sums():
            T.buffer_store(self.products, self.acc[self._place_of_sums(i, v)], [self._place_of_sums(i, v, at)])

    def _sums(self) -> Iterator[tuple[int, int]]:
        """Return the tiles and vectors that there are sums of."""
        return itertools.product(range(self.plan.together), range(self.plan.block_vectors))

    def _place_of_sums(self, i: int, v: int, first: Any = 0) -> Any:
        """Return the place of a tile's vector of sums, from some place on."""
        return span(first + i * self.plan.block_channels + v * self.isa.lanes, self.plan.vector_isa(v).lanes)

    def _transform_weights(self, block: Any, chunk: Any, steps: Any) -> None:
        """Transform the weights of some steps and a block of output channels."""
        plan, taps, words = self.plan, KERNEL * KERNEL, self.plan.words
        values = plan.steps_together * plan.step_weights
        start = block * self.block_weights + (chunk * plan.chunk_steps // plan.steps_together + steps) * taps * values
        loaded_together = self.isa.load_bytes or words
        with T.serial(values // loaded_together) as load:
            first = load * loaded_together
            loaded = [T.bind(self.weights[span(start + tap * values + first, loaded_together)]) for tap in range(taps)]
            for begin in range(0, loaded_together, words):
                taps_of = [Modular(T.bind(T.cast(part(v, begin, words), f"int16x{words}"))) for v in loaded]
                kernel = [taps_of[i : i + KERNEL] for i in range(0, taps, KERNEL)]
                for number, result in enumerate(_flat(in_both_dimensions(transform_weights, kernel))):
                    at = number * plan.position_weights + steps * values + first + begin
                    T.buffer_store(self.transformed, result.value, [span(at, words)])

    def _multiply(self, position: Any, first: Any, chunk: Any) -> None:
        """Add the products of some tiles with a block's channels, of one position and some input channels."""
        plan, g, acc, vectors = self.plan, self.geometry, self.acc, self.plan.block_vectors
        first_weight = position * plan.position_weights
        weights = self.isa.stream(self.transformed, first_weight)
        start = position * plan.position_inputs + first * g.group_in + chunk * plan.chunk_channels
        values, sums = plan.steps_per_load * plan.depth, plan.vector_sums
        with T.serial(self.isa.iterations(plan.chunk_channels // values)) as k:
            tiles = [
                self.isa.held(T.bind(self.inputs[span(start + i * g.group_in + k * values, values)]))
                for i in range(plan.together)
            ]
            if plan.half is None:
                taken = weights.take(plan.steps_per_load * vectors // sums)
            else:
                taken = self._vectors_of_step(first_weight + k * plan.step_weights)
            for step in range(plan.steps_per_load):
                for v, vector, i, tile in self._products(range(0, vectors, sums), taken, tiles):
                    places = [self._place_of_sums(i, v + n) for n in range(sums)]
                    results = plan.vector_isa(v).multiply_words([acc[at] for at in places], tile, step, vector)
                    for at, result in zip(places, results, strict=True):
                        T.buffer_store(acc, result, [at])

    def _vectors_of_step(self, first: Any) -> Iterator[Any]:
        """Yield the vectors of a step's weights, of which the last one is shorter."""
        plan = self.plan
        for v in range(plan.block_vectors):
            at = first + v * self.isa.lanes * plan.depth
            yield T.bind(self.transformed[span(at, plan.vector_isa(v).lanes * plan.depth)])

    def _products(self, firsts: range, weights: Iterator[Any], tiles: list[Any]) -> Iterator[tuple[int, Any, int, Any]]:
        """Yield each vector of weights of a step with each tile, and both numbers.

        All tiles' values are in registers where they come from any place in one, elsewhere all weights.
        """
        vectors = zip(firsts, (next(weights) for _ in firsts), strict=True)
        if self.isa.load_bytes:
            yield from ((*vector, *tile) for vector in vectors for tile in enumerate(tiles))
        else:
            kept = [*vectors]
            yield from ((*vector, *tile) for tile in enumerate(tiles) for vector in kept)

    def _transform_outputs(self, at: Any) -> None:
        """Transform the outputs of a tile to sums, vector by vector."""
        whole = self.plan.block_vectors - (self.plan.half is not None)
        with T.serial(whole) as v:
            self._transform_vector(at, v, self.isa.lanes)
        if self.plan.half is not None:
            self._transform_vector(at, whole, self.plan.half.lanes)

    def _transform_vector(self, at: Any, v: Any, lanes: int) -> None:
        plan, first = self.plan, v * self.isa.lanes
        position = plan.together * plan.block_channels

        def value(row: int, column: int) -> Modular:
            number = row * WINDOW + column
            return Modular(T.bind(self.products[span(number * position + at + first, lanes)]))

        window = [[value(row, column) for column in range(WINDOW)] for row in range(WINDOW)]
        for pixel, result in enumerate(_flat(in_both_dimensions(transform_output, window))):
            shifted = T.shift_right((result * INVERSE_OF_NINE).value, T.broadcast(T.int32(SHIFT), lanes))
            T.buffer_store(self.sums, shifted, [span(pixel * plan.block_channels + first, lanes)])

    def _finish(self, tile: Any, block: Any) -> None:
        """Requantize and store a tile's sums of a block of channels, of so many pixels that they fill a vector."""
        plan, g, lanes = self.plan, self.geometry, self.isa.lanes
        image, row, column = self._place(tile)
        channel = tails.start(block, plan.block_channels, g.group_out)
        pixels = max(self.epilogue.together // plan.block_vectors, plan.pixels_together)
        period, count = plan.pixels_together * plan.block_channels // lanes, pixels * plan.block_channels // lanes

        def constants(buffer: Any) -> list[Any]:
            return [T.bind(buffer[self._lanes(v, block * period * lanes)]) for v in range(period)] * (count // period)

        bias, multipliers = constants(self.bias), constants(self.multiplier)
        y, added = (halo.start(image, row) + column * g.group_out + channel for halo in (self.halo, self.added_halo))
        places = plan.channels()[: plan.block_channels] + g.group_out * np.arange(pixels)[:, np.newaxis]
        with T.serial(TILE) as i, T.serial(TILE // pixels) as j:
            sums, pixel = (i * TILE + j * pixels) * plan.block_channels, j * pixels * g.group_out
            for first in range(0, count, self.epilogue.together):
                vectors = range(first, min(first + self.epilogue.together, count))
                values = [self.sums[self._lanes(v, sums)] + bias[v] for v in vectors]
                result = self.epilogue.finish(values, [multipliers[v] for v in vectors])
                runs = _runs(places.reshape(count, lanes)[vectors].reshape(-1))
                if self.epilogue.add is not None:
                    start = added + i * self.added_halo.row_stride + pixel
                    others = [self.added[span(start + place, length)] for place, length in runs]
                    result = self.epilogue.add(result, joined(others))
                start, done = y + i * self.halo.row_stride + pixel, 0
                for place, length in runs:
                    T.buffer_store(self.y, part(result, done, length), [span(start + place, length)])
                    done += length

    def _lanes(self, number: Any, first: Any = 0) -> Any:
        """Return the place of a vector of sums, or of what goes with them, by its number from some place on."""
        return span(first + number * self.isa.lanes, self.isa.lanes)


def _runs(places: Array) -> list[tuple[int, int]]:
    """Cut places into runs of neighbours: the first of each, and how many."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return [(int(run[0]), len(run)) for run in runs]


def _argument(name: str, size: int, dtype: str) -> Any:
    return T.arg(name, T.buffer((size,), dtype))


def _flat(values: list[list[Modular]]) -> list[Modular]:
    return [value for row in values for value in row]
