"""Depthwise convolution three columns wide by four-fold dot products: two pixels share what was interleaved for them.

Four neighbouring pixels of the input, interleaved, hold the row's three taps of one pixel of the output, and those of
the next: only weights are shifted by a byte.

    pixel 0:  w0 w1 w2 0        pixel 1:  0 w0 w1 w2

Tiles are two of these pixels in each of two rows, and loops those of `pairs`. Vectors have 128 bits, so what
interleaving them gives is in the channels' order. `dot` does the same for all vectors and kernels, down the rows, with
sums that wait for further rows, for which registers have to be moved.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.depthwise.pairs import VECTORS, Plan, TileNest, fits_tiles, pack_channels
from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.lib.buffers import register_buffer, stack_buffer
from pipeline.kernels.lib.vectors import interleave
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation

Array = npt.NDArray[Any]

QUAD = 4
"""Pixels that are interleaved, and products that a dot product sums."""

WIDTH, COLUMNS, ROWS = 3, 2, 2
"""Columns of a kernel; columns and rows of a tile."""


def fits_quads(operation: Operation) -> bool:
    """Return whether a depthwise convolution has a kernel of three columns, and neighbouring pixels."""
    g = geometry_of(operation)
    dense = g.strides == g.dilation == (1, 1)
    return fits_tiles(operation) and dense and g.kernel[1] == WIDTH and g.out_width >= COLUMNS


def depthwise_quads(operation: Operation, machine: Machine) -> Kernel:
    """Sum three taps with one dot product; the zero point is in the bias."""
    g, isa = geometry_of(operation), machine.isa
    plan = Plan(g, isa, min(ROWS, g.out_height), COLUMNS)
    as_floats = isa.has(Capability.FUSED_MULTIPLY_ADD)
    constants = IntegerConstants.of(operation, as_floats=as_floats, activation_offset=isa.activation_offset)
    nest = _Nest(plan, operation.inputs[0].dtype, VECTORS * g.kernel[0], constants)
    scales = constants.packed_scales(functools.partial(pack_channels, plan))
    packed = pack_channels(plan, constants.start), scales
    return Kernel(nest.build(), (0, _pack_weights(plan, constants.weight), *packed))


def _pack_weights(plan: Plan, weight: Array) -> Array:
    """Return weights [C,KH,3,1] as [blocks][KH][VECTORS][lanes][4], flat; the fourth is zero."""
    padded = np.pad(weight[..., 0], ((0, 0), (0, 0), (0, QUAD - WIDTH)))
    channels = pack_channels(plan, padded).reshape(plan.blocks, VECTORS, plan.isa.lanes, -1, QUAD)
    return np.ascontiguousarray(channels.transpose(0, 3, 1, 2, 4)).reshape(-1)


class _Nest(TileNest):
    reads_ahead = False
    """Else LLVM reads constants before the loops, and spills them."""

    def allocate(self) -> None:
        """Declare weights as the second column wants them; see the base class."""
        self.shifted = stack_buffer(self.weight_vectors * self.plan.vector, "int8")

    def prepare_block(self) -> None:
        """Shift the weights for the second column, by a byte; see the base class."""
        lanes = self.plan.isa.lanes
        for number in range(self.weight_vectors):
            weights = T.reinterpret(f"int32x{lanes}", self.block_weights[self.bytes_of(number)])
            moved = T.shift_left(weights, T.broadcast(T.int32(8), lanes))
            T.buffer_store(self.shifted, T.reinterpret(f"int8x{self.plan.vector}", moved), [self.bytes_of(number)])

    def add_products(self, acc: Any, x: Any) -> None:
        """Add dot products, kernel row by kernel row; see the base class."""
        plan = self.plan
        quads = [self._quads(x, row) for row in range(plan.rows)]
        streams = [plan.isa.stream(weights, 0) for weights in (self.block_weights, self.shifted)]
        for kernel_row in range(plan.geometry.kernel[0]):
            if kernel_row + plan.rows > len(quads):
                quads.append(self._quads(x, kernel_row + plan.rows - 1))
            for column, stream in enumerate(streams):
                for v, weights in enumerate(stream.take(VECTORS)):
                    for row in range(plan.rows):
                        at = self.lanes((row * COLUMNS + column) * VECTORS + v)
                        taps = quads[row + kernel_row][self.bytes_of(v)]
                        T.buffer_store(acc, plan.isa.dot_lanes(acc[at], taps, weights), [at])
            for stream in streams:
                stream.wait([acc[self.lanes(v)] for v in range(plan.pixels * VECTORS)])

    def _quads(self, x: Any, row: int) -> Any:
        """Return four interleaved pixels of a row, in registers."""
        plan, isa, size = self.plan, self.plan.isa, self.plan.vector
        pixels = []
        for column in range(QUAD):
            start = x + row * self.in_stride + column * plan.geometry.groups
            pixels.append(isa.activations(self.x[T.ramp(start, 1, size)]))
        pairs = [interleave(pixels[i], pixels[i + 1], "uint8", size) for i in (0, 2)]
        quads = register_buffer(QUAD * size, isa.activation_dtype)
        for half, (first, second) in enumerate(zip(*pairs, strict=True)):
            for i, taps in enumerate(interleave(first, second, "uint16", size // 2)):
                values = T.reinterpret(f"{isa.activation_dtype}x{size}", taps)
                T.buffer_store(quads, values, [self.bytes_of(2 * half + i)])
        return quads
