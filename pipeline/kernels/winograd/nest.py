"""Convolutions of 3x3 by Winograd's transforms (`transforms`), on instruction sets that multiply values of 16 bits.

    for band of tiles of 4x4 outputs:                 as many as the second-level cache holds the inputs of
        for tile, in parallel:
            for vector of input channels:             inputs transformed: [position][tile][channel]
        for block of output channels, in parallel:
            for chunk of input channels:              as many as that cache holds a block's weights of
                for input channel:                    weights transformed: [position][input channel][channel]
                for group of tiles:
                    for position of 6x6:
                        for vector of input channels: register tile: tiles by channels of the block
                    for tile, after the last chunk:
                        for vector of channels:       outputs transformed
                        for pixel of 4x4:             requantized, stored

Transformed weights are eight times as large as weights are in a library, so they are made where they are used, which is
a tenth of the work or less where there are some tens of tiles. As everywhere (`lib/tails.py`), what doesn't divide
overlaps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import register_buffer, stack_buffer, view
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.modular import Modular
from pipeline.kernels.lib.vectors import part, span, with_other_sign
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.winograd.plan import BLOCK_CHANNELS, BLOCK_VECTORS, MIDDLE, WORDS, WinogradPlan
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
    constants = IntegerConstants.of(operation, as_floats=False, activation_offset=MIDDLE)
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
    """Return OHWI weights as they are transformed: [block][input channel][9][channel of the block], flat."""
    blocks = weight[plan.channels()].reshape(plan.blocks, BLOCK_CHANNELS, KERNEL * KERNEL, -1)
    return np.ascontiguousarray(blocks.transpose(0, 3, 2, 1)).reshape(-1)


class WinogradNest:
    """The loops of the module's docstring."""

    def __init__(self, plan: WinogradPlan, stored: str, epilogue: Epilogue) -> None:
        self.plan, self.stored, self.epilogue = plan, stored, epilogue
        self.isa, self.geometry = plan.isa, plan.geometry
        g = plan.geometry
        self.halo = Halo(g.out_height, g.out_width, g.group_out, *g.halo)
        self.added_halo = Halo(g.out_height, g.out_width, g.group_out, *g.added_halo)
        self.group_products = POSITIONS * plan.together * BLOCK_CHANNELS
        self.block_weights = g.group_in * KERNEL * KERNEL * BLOCK_CHANNELS

    def build(self) -> tirx.PrimFunc:
        """Return the function (x, weights, bias, multiplier, and what the epilogue adds) -> y, all flat."""
        plan, g, blocks = self.plan, self.geometry, self.plan.blocks
        rows = g.batch * self.halo.padded_height
        self.loop = T.parallel if worth_threads(g, self.isa, 1) else T.serial
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            self.x = _argument("x", g.batch * g.height * g.width * g.group_in, self.stored)
            self.weights = _argument("weights", blocks * self.block_weights, "int8")
            self.bias = _argument("bias", blocks * BLOCK_CHANNELS, "int32")
            self.multiplier = _argument("multiplier", blocks * BLOCK_CHANNELS, "float32")
            if self.epilogue.add is not None:
                size = g.batch * self.added_halo.padded_height * self.added_halo.row_stride
                self.added = _argument("added", size, self.epilogue.added_dtype)
            self.y = _argument("y", rows * self.halo.row_stride, self.epilogue.dtype)
            with self.isa.functions():
                self.inputs = _workspace(POSITIONS * plan.band_tiles * g.group_in, "int16")
                with T.serial(plan.bands) as band:
                    first_tile = tails.start(band, plan.band_tiles, plan.tiles)
                    with self.loop(plan.band_tiles) as tile:
                        self._transform_inputs(first_tile, tile)
                    with self.loop(blocks) as block:
                        task, tasks = band * blocks + block, plan.bands * blocks
                        self.halo.fill_part(self.y, rows, task, tasks, self.epilogue.halo_value, BLOCK_CHANNELS)
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
        line, position = g.width * g.group_in, plan.band_tiles * g.group_in
        with T.serial(g.group_in // WORDS) as k:
            x = view(self.x, start + k * WORDS, (WINDOW - 1) * (line + g.group_in) + WORDS)

            def value(i: int, j: int) -> Modular:
                loaded = x[span(i * line + j * g.group_in, WORDS)]
                signed = loaded if self.stored == "int8" else with_other_sign(loaded)
                return Modular(T.bind(T.cast(signed, f"int16x{WORDS}")))

            window = [[value(i, j) for j in range(WINDOW)] for i in range(WINDOW)]
            at = tile * g.group_in + k * WORDS
            for number, result in enumerate(_flat(in_both_dimensions(transform_input, window))):
                T.buffer_store(self.inputs, result.value, [span(number * position + at, WORDS)])

    def _compute_block(self, first_tile: Any, block: Any) -> None:
        """Compute a block of output channels of a band's tiles."""
        plan = self.plan
        self.transformed = _workspace(POSITIONS * plan.chunk_channels * BLOCK_CHANNELS, "int16")
        # Sums of several chunks have to be kept for all groups, those of the only one but for the group at hand.
        slots = plan.groups if plan.chunks > 1 else 1
        self.products = _workspace(slots * self.group_products, "int32")
        self.sums = stack_buffer(PIXELS * BLOCK_CHANNELS, "int32")
        self.acc = register_buffer(plan.together * BLOCK_CHANNELS, "int32")
        with T.serial(plan.chunks) as chunk:
            with T.serial(plan.chunk_channels) as channel:
                self._transform_weights(block, chunk, channel)
            with T.serial(plan.groups) as group:
                first = tails.start(group, plan.together, plan.band_tiles)
                slot = group * self.group_products if plan.chunks > 1 else 0
                with T.serial(POSITIONS) as position:
                    at = slot + position * plan.together * BLOCK_CHANNELS
                    self._load_sums(at, chunk)
                    self._multiply(position, first, chunk)
                    self._store_sums(at)
                with T.If(chunk == plan.chunks - 1), T.Then(), T.serial(plan.together) as i:
                    with T.serial(BLOCK_VECTORS) as v:
                        self._transform_outputs(slot + i * BLOCK_CHANNELS, v)
                    self._finish(first_tile + first + i, block)

    def _load_sums(self, at: Any, chunk: Any) -> None:
        """Set accumulators to zero, or from the second chunk on to what they were."""

        def set_to(value: Callable[[int], Any]) -> None:
            for i in range(self.plan.together * BLOCK_VECTORS):
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
        for i in range(self.plan.together * BLOCK_VECTORS):
            T.buffer_store(self.products, self.acc[self._lanes(i)], [self._lanes(i, at)])

    def _transform_weights(self, block: Any, chunk: Any, channel: Any) -> None:
        """Transform the weights of an input channel and a block of output channels."""
        channels, taps = self.plan.chunk_channels, KERNEL * KERNEL
        start = block * self.block_weights + (chunk * channels + channel) * taps * BLOCK_CHANNELS
        loaded = [T.bind(self.weights[span(start + tap * BLOCK_CHANNELS, BLOCK_CHANNELS)]) for tap in range(taps)]
        for half in range(0, BLOCK_CHANNELS, WORDS):
            taps_of = [Modular(T.bind(T.cast(part(v, half, WORDS), f"int16x{WORDS}"))) for v in loaded]
            kernel = [taps_of[i : i + KERNEL] for i in range(0, taps, KERNEL)]
            for number, result in enumerate(_flat(in_both_dimensions(transform_weights, kernel))):
                at = (number * channels + channel) * BLOCK_CHANNELS + half
                T.buffer_store(self.transformed, result.value, [span(at, WORDS)])

    def _multiply(self, position: Any, first: Any, chunk: Any) -> None:
        """Add the products of some tiles with a block's channels, of one position and some input channels."""
        plan, g, acc = self.plan, self.geometry, self.acc
        weights = self.isa.stream(self.transformed, position * plan.chunk_channels * BLOCK_CHANNELS)
        start = (position * plan.band_tiles + first) * g.group_in + chunk * plan.chunk_channels
        with T.serial(self.isa.iterations(plan.chunk_channels // WORDS)) as k:
            tiles = [
                self.isa.held(T.bind(self.inputs[span(start + i * g.group_in + k * WORDS, WORDS)]))
                for i in range(plan.together)
            ]
            vectors = weights.take(WORDS * BLOCK_VECTORS // 2)
            for step in range(WORDS):
                for pair in range(0, BLOCK_VECTORS, 2):
                    vector = next(vectors)
                    for i, tile in enumerate(tiles):
                        places = [self._lanes(i * BLOCK_VECTORS + pair + half) for half in range(2)]
                        results = self.isa.multiply_words([acc[at] for at in places], tile, step, vector)
                        for at, result in zip(places, results, strict=True):
                            T.buffer_store(acc, result, [at])

    def _transform_outputs(self, at: Any, v: Any) -> None:
        """Transform the outputs of a tile's vector of channels to sums."""
        lanes, position = self.isa.lanes, self.plan.together * BLOCK_CHANNELS

        def value(row: int, column: int) -> Modular:
            number = row * WINDOW + column
            return Modular(T.bind(self.products[self._lanes(v, number * position + at)]))

        window = [[value(row, column) for column in range(WINDOW)] for row in range(WINDOW)]
        for pixel, result in enumerate(_flat(in_both_dimensions(transform_output, window))):
            shifted = T.shift_right((result * INVERSE_OF_NINE).value, T.broadcast(T.int32(SHIFT), lanes))
            T.buffer_store(self.sums, shifted, [self._lanes(v, pixel * BLOCK_CHANNELS)])

    def _finish(self, tile: Any, block: Any) -> None:
        """Requantize and store a tile's sums of a block of channels."""
        g, lanes, together = self.geometry, self.isa.lanes, self.epilogue.together
        image, row, column = self._place(tile)
        channel = tails.start(block, BLOCK_CHANNELS, g.group_out)

        def constants(buffer: Any) -> list[Any]:
            return [T.bind(buffer[self._lanes(v, block * BLOCK_CHANNELS)]) for v in range(BLOCK_VECTORS)]

        bias, multipliers = constants(self.bias), constants(self.multiplier)
        y, added = (halo.start(image, row) + column * g.group_out + channel for halo in (self.halo, self.added_halo))
        with T.serial(TILE) as i, T.serial(TILE) as j:
            for v in range(0, BLOCK_VECTORS, together):
                vectors = range(v, v + together)
                values = [self.sums[self._lanes(u, (i * TILE + j) * BLOCK_CHANNELS)] + bias[u] for u in vectors]
                result = self.epilogue.finish(values, [multipliers[u] for u in vectors])
                offset, length = j * g.group_out + v * lanes, together * lanes
                if self.epilogue.add is not None:
                    other = self.added[span(added + i * self.added_halo.row_stride + offset, length)]
                    result = self.epilogue.add(result, other)
                T.buffer_store(self.y, result, [span(y + i * self.halo.row_stride + offset, length)])

    def _lanes(self, number: Any, first: Any = 0) -> Any:
        """Return the place of a vector of sums, or of what goes with them, by its number from some place on."""
        return span(first + number * self.isa.lanes, self.isa.lanes)


def _argument(name: str, size: int, dtype: str) -> Any:
    return T.arg(name, T.buffer((size,), dtype))


def _workspace(size: int, dtype: str) -> Any:
    """Declare a buffer on the heap, from the pool that each thread has."""
    return T.alloc_buffer((size,), dtype, scope="global")


def _flat(values: list[list[Modular]]) -> list[Modular]:
    return [value for row in values for value in row]
