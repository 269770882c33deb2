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
overlaps.
"""

from __future__ import annotations

import functools
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
from pipeline.kernels.lib.vectors import joined, part, span, with_other_sign
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
    packed = pack_weights(plan, constants.weight), constants.start[channels], constants.multiplier[channels]
    added = (4,) if isinstance(operation.operator, QConv2dAdd) else ()
    return Kernel(_built(plan, operation.inputs[0].dtype, epilogue), (0, *packed, *added))


@functools.lru_cache(maxsize=MOST)
def _built(plan: WinogradPlan, stored: str, epilogue: Epilogue) -> tirx.PrimFunc:
    # A model has equal layers, and is lowered several times, with other constants.
    return WinogradNest(plan, stored, epilogue).build()


def pack_weights(plan: WinogradPlan, weight: Array) -> Array:
    """Return OHWI weights as they are transformed: [block][step][9][channel of the block][depth], flat."""
    blocks = weight[plan.channels()].reshape(plan.blocks, plan.block_channels, KERNEL * KERNEL, -1, plan.depth)
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 1, 4)).reshape(-1)


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
            self.bias = _argument("bias", blocks * plan.block_channels, "int32")
            self.multiplier = _argument("multiplier", blocks * plan.block_channels, "float32")
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
                loaded = x[span(i * line + j * g.group_in, words)]
                signed = loaded if self.stored == "int8" else with_other_sign(loaded)
                return Modular(T.bind(T.cast(signed, f"int16x{words}")))

            window = [[value(i, j) for j in range(WINDOW)] for i in range(WINDOW)]
            at = tile * g.group_in + k * words
            for number, result in enumerate(_flat(in_both_dimensions(transform_input, window))):
                T.buffer_store(self.inputs, result.value, [span(number * plan.position_inputs + at, words)])

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
            with T.serial(plan.chunk_steps) as step:
                self._transform_weights(block, chunk, step)
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
                    with T.serial(plan.block_vectors) as v:
                        self._transform_outputs(slot + i * plan.block_channels, v)
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

        def set_to(value: Callable[[int], Any]) -> None:
            for i in range(self.plan.together * self.plan.block_vectors):
                T.buffer_store(self.acc, value(i), [self._lanes(i)])

        zeros = T.broadcast(T.int32(0), self.isa.lanes)
        if self.plan.chunks == 1:
            set_to(lambda _: zeros)
            return
        with T.If(chunk == 0):
            with T.Then():
                set_to(lambda _: zeros)
            with T.Else():
                set_to(lambda i: self.products[self._lanes(i, at)])

    def _store_sums(self, at: Any) -> None:
        for i in range(self.plan.together * self.plan.block_vectors):
            T.buffer_store(self.products, self.acc[self._lanes(i)], [self._lanes(i, at)])

    def _transform_weights(self, block: Any, chunk: Any, step: Any) -> None:
        """Transform the weights of a step and a block of output channels."""
        plan, taps, words, values = self.plan, KERNEL * KERNEL, self.plan.words, self.plan.step_weights
        start = block * self.block_weights + (chunk * plan.chunk_steps + step) * taps * values
        loaded_together = self.isa.load_bytes or words
        with T.serial(values // loaded_together) as load:
            first = load * loaded_together
            loaded = [T.bind(self.weights[span(start + tap * values + first, loaded_together)]) for tap in range(taps)]
            for begin in range(0, loaded_together, words):
                taps_of = [Modular(T.bind(T.cast(part(v, begin, words), f"int16x{words}"))) for v in loaded]
                kernel = [taps_of[i : i + KERNEL] for i in range(0, taps, KERNEL)]
                for number, result in enumerate(_flat(in_both_dimensions(transform_weights, kernel))):
                    at = number * plan.position_weights + step * values + first + begin
                    T.buffer_store(self.transformed, result.value, [span(at, words)])

    def _multiply(self, position: Any, first: Any, chunk: Any) -> None:
        """Add the products of some tiles with a block's channels, of one position and some input channels."""
        plan, g, acc, vectors = self.plan, self.geometry, self.acc, self.plan.block_vectors
        weights = self.isa.stream(self.transformed, position * plan.position_weights)
        start = position * plan.position_inputs + first * g.group_in + chunk * plan.chunk_channels
        values, sums = plan.steps_per_load * plan.depth, plan.vector_sums
        with T.serial(self.isa.iterations(plan.chunk_channels // values)) as k:
            tiles = [
                self.isa.held(T.bind(self.inputs[span(start + i * g.group_in + k * values, values)]))
                for i in range(plan.together)
            ]
            taken = weights.take(plan.steps_per_load * vectors // sums)
            for step in range(plan.steps_per_load):
                for v, vector, i, tile in self._products(range(0, vectors, sums), taken, tiles):
                    places = [self._lanes(i * vectors + v + n) for n in range(sums)]
                    results = self.isa.multiply_words([acc[at] for at in places], tile, step, vector)
                    for at, result in zip(places, results, strict=True):
                        T.buffer_store(acc, result, [at])

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

    def _transform_outputs(self, at: Any, v: Any) -> None:
        """Transform the outputs of a tile's vector of channels to sums."""
        plan, lanes = self.plan, self.isa.lanes
        position = plan.together * plan.block_channels

        def value(row: int, column: int) -> Modular:
            number = row * WINDOW + column
            return Modular(T.bind(self.products[self._lanes(v, number * position + at)]))

        window = [[value(row, column) for column in range(WINDOW)] for row in range(WINDOW)]
        for pixel, result in enumerate(_flat(in_both_dimensions(transform_output, window))):
            shifted = T.shift_right((result * INVERSE_OF_NINE).value, T.broadcast(T.int32(SHIFT), lanes))
            T.buffer_store(self.sums, shifted, [self._lanes(v, pixel * plan.block_channels)])

    def _finish(self, tile: Any, block: Any) -> None:
        """Requantize and store a tile's sums of a block of channels, of so many pixels that they fill a vector."""
        plan, g, lanes, vectors = self.plan, self.geometry, self.isa.lanes, self.plan.block_vectors
        image, row, column = self._place(tile)
        channel = tails.start(block, plan.block_channels, g.group_out)

        def constants(buffer: Any) -> list[Any]:
            return [T.bind(buffer[self._lanes(v, block * plan.block_channels)]) for v in range(vectors)]

        bias, multipliers = constants(self.bias), constants(self.multiplier)
        y, added = (halo.start(image, row) + column * g.group_out + channel for halo in (self.halo, self.added_halo))
        together = min(self.epilogue.together, vectors)
        pixels = max(self.epilogue.together // vectors, 1)
        with T.serial(TILE) as i, T.serial(TILE // pixels) as j:
            for first in range(0, vectors, together):
                numbers = [(p, v) for p in range(pixels) for v in range(first, first + together)]
                at = (i * TILE + j * pixels) * plan.block_channels
                values = [self.sums[self._lanes(p * vectors + v, at)] + bias[v] for p, v in numbers]
                result = self.epilogue.finish(values, [multipliers[v] for _, v in numbers])
                length, runs = together * lanes, [(p, first) for p in range(pixels)]
                if plan.overlaps:
                    length, runs = lanes, numbers
                offsets = [(j * pixels + p) * g.group_out + plan.vector_channel(v) for p, v in runs]
                if self.epilogue.add is not None:
                    start = added + i * self.added_halo.row_stride
                    result = self.epilogue.add(result, joined([self.added[span(start + o, length)] for o in offsets]))
                for number, offset in enumerate(offsets):
                    stored = part(result, number * length, length)
                    T.buffer_store(self.y, stored, [span(y + i * self.halo.row_stride + offset, length)])

    def _lanes(self, number: Any, first: Any = 0) -> Any:
        """Return the place of a vector of sums, or of what goes with them, by its number from some place on."""
        return span(first + number * self.isa.lanes, self.isa.lanes)


def _argument(name: str, size: int, dtype: str) -> Any:
    return T.arg(name, T.buffer((size,), dtype))


def _flat(values: list[list[Modular]]) -> list[Modular]:
    return [value for row in values for value in row]
