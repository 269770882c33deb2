"""Depthwise convolution with products of bytes in 16 bits, which hold the sum of two of them.

Activations are taken minus 128, and weights are at least -127: a product's magnitude is at most 128 * 127, and twice
that is less than 2**15. So taps are summed in pairs: two multiplications give 16 bits for each channel, exactly, and
one addition takes them to int32.

    for band of rows of the output, in parallel:
        for block of 4 * lanes channels:
            for tile of the band:                     unrolled, from here on: their sums are in registers
                for pair of taps, for pixel:          multiply twice, add
                for pixel:                            requantize, store 4 * lanes bytes

The input's vectors are loaded when they are first needed, and shared by the pixels of a tile. As everywhere
(`lib/tails.py`), what doesn't divide overlaps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.depthwise.lanes import is_depthwise
from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.epilogue import Addends, requantize
from pipeline.kernels.gemm.geometry import Geometry, geometry_of
from pipeline.kernels.gemm.parallel import TASKS, worth_threads
from pipeline.kernels.isa.contract import Capability, InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import register_buffer, view
from pipeline.kernels.lib.vectors import part, with_other_sign
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QConv2d

Array = npt.NDArray[Any]

VECTORS = 4
"""Vectors of int32 sums for a vector of bytes."""

MIDDLE = 128
"""What is subtracted from activations."""

MIN_CHANNELS = 16
"""Fewer don't fill a vector of bytes."""

MOST_TAPS = 49
"""Of larger kernels, the unrolled loops would be too long."""

MOST_PIXELS = 4
"""In a tile: their sums are in half of 32 registers, beside activations, weights, and products in 16 bits."""

REQUANTIZATION, OTHERS = 20, 12
"""Instructions that finish a pixel's sums, and what a tile takes beside that: constants, addresses and the loop."""


def fits_tiles(operation: Operation) -> bool:
    """Return whether a depthwise convolution has channels enough, and a kernel that can be unrolled."""
    operator, g = operation.operator, geometry_of(operation)
    if not is_depthwise(operation) or not isinstance(operator, QConv2d) or not operator.stores_bytes:
        return False
    if operation.inputs[0].dtype == "int16":
        return False
    return g.groups >= MIN_CHANNELS and 1 < g.kernel[0] * g.kernel[1] <= MOST_TAPS


def fits_pairs(operation: Operation) -> bool:
    """Return whether, beside that, sums of two products fit 16 bits."""
    return fits_tiles(operation) and bool(operation.constants[1].min() > -MIDDLE)


def depthwise_pairs(operation: Operation, machine: Machine) -> Kernel:
    """Multiply bytes, add 16 bits; the zero point and 128 are in the bias."""
    plan = Plan.choose(geometry_of(operation), machine.isa)
    as_floats = machine.isa.has(Capability.FUSED_MULTIPLY_ADD)
    constants = IntegerConstants.of(operation, as_floats=as_floats, activation_offset=MIDDLE)
    nest = TileNest(plan, operation.inputs[0].dtype, len(plan.taps), constants)
    scales = constants.packed_scales(functools.partial(pack_channels, plan))
    packed = pack_channels(plan, constants.start), scales
    return Kernel(nest.build(), (0, pack_weights(plan, constants.weight), *packed))


@dataclass(frozen=True)
class Plan:
    """What the loops and the layout of the constants depend on.

    Attributes:
        geometry: the convolution; `groups` is the number of channels.
        isa: the instruction set.
        rows, columns: pixels of the output in a tile.
    """

    geometry: Geometry
    isa: InstructionSet
    rows: int
    columns: int

    @classmethod
    def choose(cls, geometry: Geometry, isa: InstructionSet) -> Plan:
        """Return the plan with the fewest instructions."""
        plans = [
            cls(geometry, isa, rows, columns)
            for rows in range(1, min(MOST_PIXELS, geometry.out_height) + 1)
            for columns in range(1, min(MOST_PIXELS // rows, geometry.out_width) + 1)
        ]
        return min(plans, key=Plan._instructions)

    def _instructions(self) -> int:
        """Count those of a block of an image's channels."""
        g, taps = self.geometry, len(self.taps)
        pairs = -(-taps // 2)
        pixel = 2 * taps + VECTORS * pairs + REQUANTIZATION
        tile = self.pixels * pixel + 2 * len(self._inputs()) + pairs + OTHERS
        return -(-g.out_height // self.rows) * -(-g.out_width // self.columns) * tile

    def _inputs(self) -> set[tuple[int, int]]:
        """Return (row, column) of all pixels of the input that a tile reads, from its first one."""
        return {self.input_pixel(pixel, tap) for pixel in range(self.pixels) for tap in self.taps}

    def input_pixel(self, pixel: int, tap: tuple[int, int]) -> tuple[int, int]:
        """Return (row, column) of what a tap of a tile's pixel is multiplied with, from the tile's first one."""
        g, (row, column) = self.geometry, self.output_pixel(pixel)
        return (
            row * g.strides[0] + tap[0] * g.dilation[0],
            column * g.strides[1] + tap[1] * g.dilation[1],
        )

    def output_pixel(self, pixel: int) -> tuple[int, int]:
        """Return (row, column) of a pixel in a tile."""
        return divmod(pixel, self.columns)

    @property
    def pixels(self) -> int:
        """Number of pixels in a tile."""
        return self.rows * self.columns

    @property
    def vector(self) -> int:
        """Number of channels in a block: bytes in a vector."""
        return VECTORS * self.isa.lanes

    @property
    def blocks(self) -> int:
        """Number of channel blocks."""
        return -(-self.geometry.groups // self.vector)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """(row, column) of each tap in the kernel."""
        rows, columns = self.geometry.kernel
        return [(row, column) for row in range(rows) for column in range(columns)]


def pack_channels(plan: Plan, values: Array) -> Array:
    """Return per-channel constants [C, ...] in the order of the blocks: [blocks, 4 * lanes, ...], flat."""
    first = tails.starts(plan.vector, plan.geometry.groups)
    return np.ascontiguousarray(values[np.add.outer(first, np.arange(plan.vector))]).reshape(-1)


def pack_weights(plan: Plan, weight: Array) -> Array:
    """Return weights [C,KH,KW,1] as [blocks][taps][4 * lanes], flat."""
    packed = pack_channels(plan, weight.reshape(len(weight), -1)).reshape(plan.blocks, plan.vector, -1)
    return np.ascontiguousarray(packed.transpose(0, 2, 1)).reshape(-1)


class TileNest:
    """The loops, unrolled within a tile; a subclass may sum otherwise.

    Args:
        plan: geometry and tile.
        stored: dtype of the input.
        weight_vectors: how many vectors of weights a block of channels has.
        constants: of the operator.
    """

    reads_ahead = True
    """Whether LLVM may read what a tile needs before the results of the one before are stored."""

    def __init__(self, plan: Plan, stored: str, weight_vectors: int, constants: IntegerConstants) -> None:
        self.plan, self.stored, self.weight_vectors = plan, stored, weight_vectors
        if not constants.floats:
            # Lower halves would be joined by one instruction less, but LLVM then orders instructions so that it spills.
            constants = dataclasses.replace(constants, short=False)
        self.epilogue = requantize(constants, plan.isa, loads_addends=plan.isa.overwrites_addends)
        g = plan.geometry
        self.in_stride, self.out_stride = g.width * g.groups, g.out_width * g.groups
        self.bands = -(-g.out_height // plan.rows)

    def build(self) -> tirx.PrimFunc:
        """Return the function (x, weights, bias, multiplier) -> y, all flat."""
        plan, g = self.plan, self.plan.geometry
        bands = g.batch * self.bands
        tasks = min(TASKS, bands) if worth_threads(g, plan.isa, 1) else 1
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"op_pattern": 8} | ({"tirx.noalias": True} if self.reads_ahead else {}))
            self.x = T.arg("x", T.buffer((g.batch * g.height * self.in_stride,), self.stored))
            self.weights = T.arg("weights", T.buffer((plan.blocks * self.weight_vectors * plan.vector,), "int8"))
            self.bias = T.arg("bias", T.buffer((plan.blocks * plan.vector,), "int32"))
            scales = self.epilogue.scales * plan.blocks * plan.vector
            self.multiplier = T.arg("multiplier", T.buffer((scales,), "float32"))
            self.y = T.arg("y", T.buffer((g.batch * g.out_height * self.out_stride,), self.epilogue.dtype))
            with plan.isa.functions(), (T.parallel if tasks > 1 else T.serial)(tasks) as p:
                self.allocate()
                if self.epilogue.addends:
                    self.addends = Addends(self.epilogue, plan.isa, VECTORS)
                first, behind = (task * bands // tasks for task in (p, p + 1))
                with T.serial(behind - first) as r, T.serial(plan.blocks) as block:
                    self._band(first + r, block)
        return builder.get()

    def _band(self, band: Any, block: Any) -> None:
        """Compute a block of the channels of a band."""
        plan, g, vector, weights = self.plan, self.plan.geometry, self.plan.vector, self.weight_vectors
        channel = tails.start(block, vector, g.groups)
        image, row = band // self.bands, tails.start(band % self.bands, plan.rows, g.out_height)
        x = (image * g.height + row * g.strides[0]) * self.in_stride + channel
        y = (image * g.out_height + row) * self.out_stride + channel
        self.block_weights = view(self.weights, block * (weights * vector), weights * vector)
        self.block_bias = view(self.bias, block * vector, vector)
        starts = [k * (plan.blocks * vector) + block * vector for k in range(self.epilogue.scales)]
        self.block_scales = [view(self.multiplier, start, vector) for start in starts]
        self.prepare_block()
        if self.epilogue.addends:
            self.addends.prepare([self.block_scales[0][self.lanes(v)] for v in range(VECTORS)])
        with T.serial(-(-g.out_width // plan.columns)) as t:
            column = tails.start(t, plan.columns, g.out_width)
            self._tile(x + column * (g.strides[1] * g.groups), y + column * g.groups)

    def allocate(self) -> None:
        """Declare what a task needs."""

    def prepare_block(self) -> None:
        """Do what comes before all tiles of a block of channels in a band."""

    def _tile(self, x: Any, y: Any) -> None:
        plan, g = self.plan, self.plan.geometry
        acc = register_buffer(plan.pixels * plan.vector, "int32")
        # Loaded for each pixel, as one load takes the place of several copies.
        bias = plan.isa.stream(self.block_bias, 0)
        for pixel in range(plan.pixels):
            for v, vector in enumerate(bias.take(VECTORS, T.int64(0))):
                T.buffer_store(acc, vector, [self.lanes(pixel * VECTORS + v)])
        self.add_products(acc, x)
        every = [acc[self.lanes(v)] for v in range(plan.pixels * VECTORS)]
        loads = self.addends.loads([(0, VECTORS)], every) if self.epilogue.addends else None
        scales = [self._scales(own, every) for own in self.block_scales]
        for pixel in range(plan.pixels):
            row, column = plan.output_pixel(pixel)
            at = y + row * self.out_stride + column * g.groups
            T.buffer_store(self.y, self._finished(acc, pixel, scales, loads), [T.ramp(at, 1, plan.vector)])

    def add_products(self, acc: Any, x: Any) -> None:
        """Add all products of a tile to its sums.

        Args:
            acc: for each pixel its `VECTORS` vectors.
            x: offset of the first pixel that the tile reads.
        """
        plan, g = self.plan, self.plan.geometry
        window: dict[tuple[int, int], Any] = {}

        def value(pixel: int, tap: tuple[int, int]) -> Any:
            """Return a pixel's vector of activations for a tap, loaded if none before has needed it."""
            row, column = place = plan.input_pixel(pixel, tap)
            if place not in window:
                window[place] = self._activations(x + row * self.in_stride + column * g.groups)
            return window[place]

        for first in range(0, len(plan.taps), 2):
            pair = range(first, min(first + 2, len(plan.taps)))
            weights = [self.block_weights[self.bytes_of(number)] for number in pair]
            for pixel in range(plan.pixels):
                values = [value(pixel, plan.taps[number]) for number in pair]
                self._add(acc, pixel, list(zip(values, weights, strict=True)))

    def _activations(self, start: Any) -> Any:
        """Load a vector of the input, as it is multiplied, into a register."""
        vector = self.plan.vector
        values = self.x[T.ramp(start, 1, vector)]
        loaded = register_buffer(vector, "int8")
        T.buffer_store(loaded, values if self.stored == "int8" else with_other_sign(values), [self.bytes_of(0)])
        return loaded[self.bytes_of(0)]

    def _add(self, acc: Any, number: int, factors: list[tuple[Any, Any]]) -> None:
        """Add the products of one or two vectors of activations and weights to a pixel's sums."""
        isa = self.plan.isa
        products = [isa.wide_products(x, weights) for x, weights in factors]
        for half, terms in enumerate(zip(*products, strict=True)):
            total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
            for quarter in range(2):
                at = self.lanes(number * VECTORS + 2 * half + quarter)
                wide = T.cast(part(total, quarter * isa.lanes, isa.lanes), f"int32x{isa.lanes}")
                T.buffer_store(acc, acc[at] + wide, [at])

    def _scales(self, own: Any, sums: list[Any]) -> list[Any]:
        """Return a block's multipliers or factors, which are loaded after sums, by one instruction."""
        stream = self.plan.isa.stream(own, 0)
        stream.wait(sums)
        return list(stream.take(VECTORS))

    def _finished(
        self, acc: Any, number: int, scales: list[list[Any]], loads: Callable[..., dict[str, Any]] | None
    ) -> Any:
        sums = [acc[self.lanes(number * VECTORS + v)] for v in range(VECTORS)]
        return self.epilogue.finish(sums, *scales, **({} if loads is None else loads([(0, VECTORS)])))

    def bytes_of(self, number: Any) -> Any:
        """Return the index of a vector of bytes."""
        return T.ramp(number * self.plan.vector, 1, self.plan.vector)

    def lanes(self, number: Any) -> Any:
        """Return the index of a vector of sums, or of what goes with them."""
        return T.ramp(number * self.plan.isa.lanes, 1, self.plan.isa.lanes)
