"""Depthwise convolution with four-fold dot products: each sums up to four taps of one column of the kernel.

A dot product wants a channel's four values next to each other, where NHWC has four channels next to each other. So four
rows of the input are interleaved byte by byte, 4 * lanes channels at a time, which gives four vectors in which each
int32 lane holds one channel's column of the kernel. Such a column serves all output pixels whose window it is in.
Taps that the kernel doesn't have are zeros on both sides.

    for (chunk of output rows, channel block), in parallel:
        for row, for tile of it:                      mr places x four vectors, in registers
            for column of the input, for each four rows of the kernel:      unrolled: interleave
                for output place that has the column in its window:         unrolled: four dot products
            for place:                                unrolled: requantize, store 4 * lanes bytes

Interleaving works within 128 bits, as x86 does it, so the four vectors hold channels in another order
(`_channel_order`); constants are stored in it, and narrowing the results to bytes undoes it for free.

With stride 1, neighbouring pixels can be taken for more channels: a *place* is as many pixels as it takes to fill
vectors. What doesn't divide overlaps, as in `product`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.dialect.attributes import QConv2d, QConv2dLookup
from pipeline.kernels.conv2d import geometry
from pipeline.kernels.epilogue import Epilogue, requantize
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.packing import folded_bias
from pipeline.kernels.plan import Geometry
from pipeline.kernels.product import worth_sharing
from pipeline.kernels.registry import kernel
from pipeline.kernels.vectors import interleave, register_buffer

Array = npt.NDArray[Any]

DEPTH = 4
"""Products that a dot product sums, and vectors that an interleaving of bytes gives."""

MAX_KERNEL = 7
"""Largest height and width of a kernel, as its columns are unrolled."""

MAX_PIXELS = 8
"""Most neighbouring pixels in a place."""

CHUNKS = 8
"""Into how many chunks output rows are cut. A larger chunk finds more of its constants in registers and caches."""

MIN_CHANNELS = 64
"""Places of fewer channels are for the generic kernel."""


@dataclass(frozen=True)
class Plan:
    """What the loops and the layout of the constants depend on.

    Attributes:
        geometry: the convolution; `groups` is the number of channels.
        isa: the instruction set.
        pixels: neighbouring pixels in a place.
        mr: places in a tile.
    """

    geometry: Geometry
    isa: InstructionSet
    pixels: int
    mr: int

    @classmethod
    def choose(cls, geometry: Geometry, isa: InstructionSet) -> Plan | None:
        """Return the plan with the fewest instructions, or None if vectors would be wider than a place."""
        most_pixels = MAX_PIXELS if geometry.strides[1] == 1 else 1

        def most_places(pixels: int) -> int:
            # Where places share few columns, larger tiles fit, too, but LLVM loads all columns before it needs them.
            small = pixels == 1 and max(geometry.kernel) <= DEPTH
            return min(isa.registers // (8 if small else 16), geometry.out_width // pixels)

        plans = [
            cls(geometry, isa, pixels, mr)
            for pixels in range(1, min(most_pixels, geometry.out_width) + 1)
            for mr in range(1, most_places(pixels) + 1)
            if pixels * geometry.groups >= DEPTH * isa.lanes
        ]
        return min(plans, key=lambda plan: plan._instructions(), default=None)

    def _instructions(self) -> int:
        """Count shuffles, dot products and requantization of a row."""
        columns, taps = len(self.columns()), self.geometry.kernel[1]
        tile = self.quads * (8 * columns + 4 * self.mr * taps) + 17 * self.mr
        return self.blocks * self.tiles * tile

    @property
    def vector(self) -> int:
        """Number of bytes in a vector."""
        return DEPTH * self.isa.lanes

    @property
    def quads(self) -> int:
        """Number of groups of four kernel rows."""
        return -(-self.geometry.kernel[0] // DEPTH)

    @property
    def blocks(self) -> int:
        """Number of vectors of bytes in a place."""
        return -(-self.pixels * self.geometry.groups // self.vector)

    @property
    def tiles(self) -> int:
        """Number of tiles in a row."""
        return -(-self.geometry.out_width // (self.pixels * self.mr))

    @property
    def chunks(self) -> int:
        """Into how many chunks the output rows are cut; one, if threads can share the channels' cache lines out."""
        if self.blocks >= CHUNKS and self.pixels * self.geometry.groups % self.vector == 0:
            return 1
        return min(self.geometry.batch * self.geometry.out_height, CHUNKS)

    def columns(self) -> dict[int, list[tuple[int, int]]]:
        """Return the tile's input columns, in pixels, each with the (place, kernel column) pairs that use it."""
        uses: dict[int, list[tuple[int, int]]] = {}
        for i in range(self.mr):
            for kx in range(self.geometry.kernel[1]):
                column = i * self.pixels * self.geometry.strides[1] + kx * self.geometry.dilation[1]
                uses.setdefault(column, []).append((i, kx))
        return dict(sorted(uses.items()))


def _accepts(operation: Operation) -> bool:
    attrs, g = operation.attrs, geometry(operation)
    fits = 1 < g.kernel[0] <= MAX_KERNEL and g.kernel[1] <= MAX_KERNEL
    wide = g.groups * (min(MAX_PIXELS, g.out_width) if g.strides[1] == 1 else 1) >= MIN_CHANNELS
    return g.depthwise and fits and wide and isinstance(attrs, QConv2d) and attrs.output_dtype == "uint8"


@kernel(QConv2dLookup, isa="avx512_vnni", variant="depthwise_dot", accepts=_accepts)
@kernel(QConv2d, isa="avx_vnni", variant="depthwise_dot", accepts=_accepts)
@kernel(QConv2d, isa="avx512_vnni", variant="depthwise_dot", accepts=_accepts)
def depthwise_dot(operation: Operation, isa: InstructionSet) -> Kernel:
    """Sum the taps of a column with one dot product; the zero point is in the bias."""
    attrs, plan = operation.attrs, Plan.choose(geometry(operation), isa)
    if not isinstance(attrs, QConv2d) or plan is None:
        raise TypeError(f"Expected a depthwise qnn.conv2d of at least {MIN_CHANNELS} channels, got {attrs}")
    weight, bias, multiplier = (operation.constants[i] for i in (1, 2, 3))
    folded = folded_bias(bias, weight, attrs.input_zero_point)
    constants = _pack_weights(plan, weight), _pack_channels(plan, folded), _pack_channels(plan, multiplier)
    return Kernel(
        _Nest(plan, requantize(attrs, isa, table=operation.constants.get(4), interleaved=True)).build(), (0, *constants)
    )


def _channel_order(plan: Plan) -> Array:
    """Return the channel of each lane of a place: [blocks, vectors, lanes]."""
    first = np.minimum(np.arange(plan.blocks) * plan.vector, plan.pixels * plan.geometry.groups - plan.vector)
    vector, lane = np.arange(DEPTH)[:, None], np.arange(plan.isa.lanes)
    within = lane // 4 * 16 + vector * 4 + lane % 4
    return np.asarray((first[:, None, None] + within) % plan.geometry.groups)


def _pack_channels(plan: Plan, values: Array) -> Array:
    return np.ascontiguousarray(values[_channel_order(plan)]).reshape(-1)


def _pack_weights(plan: Plan, weight: Array) -> Array:
    """Return weights [C,KH,KW,1] as [blocks][KW][quads][vectors][lanes][DEPTH], flat."""
    kernel_h, kernel_w = plan.geometry.kernel
    padded = np.zeros((plan.geometry.groups, plan.quads * DEPTH, kernel_w), weight.dtype)
    padded[:, :kernel_h] = weight[..., 0]
    chosen = padded.reshape(-1, plan.quads, DEPTH, kernel_w)[_channel_order(plan)]
    return np.ascontiguousarray(chosen.transpose(0, 5, 3, 1, 2, 4)).reshape(-1)


class _Nest:
    def __init__(self, plan: Plan, epilogue: Epilogue) -> None:
        self.plan, self.epilogue = plan, epilogue
        self.row_stride = plan.geometry.width * plan.geometry.groups

    def build(self) -> tirx.PrimFunc:
        plan, g = self.plan, self.plan.geometry
        lines, channels = g.batch * g.out_height, plan.blocks * plan.vector
        block_weights = g.kernel[1] * plan.quads * DEPTH * plan.vector
        loop = T.parallel if worth_sharing(g, plan.isa, 1) else T.serial
        per_chunk = -(-lines // plan.chunks)
        with IRBuilder() as builder, T.prim_func():
            T.func_attr({"tirx.noalias": True, "op_pattern": 8})
            self.x = T.arg("x", T.buffer((g.batch * g.height * self.row_stride,), "uint8"))
            self.weights = T.arg("weights", T.buffer((plan.blocks * block_weights,), "int8"))
            self.bias = T.arg("bias", T.buffer((channels,), "int32"))
            self.multiplier = T.arg("multiplier", T.buffer((channels,), "float32"))
            self.y = T.arg("y", T.buffer((lines * g.out_width * g.groups,), "uint8"))
            with loop(plan.blocks * plan.chunks) as p:
                self.acc = register_buffer(plan.mr * plan.vector, "int32")
                self.taps = register_buffer(DEPTH * plan.vector, "uint8")
                block, first_line = p % plan.blocks, p // plan.blocks * per_chunk
                with T.serial(T.max(T.min(per_chunk, lines - first_line), 0)) as r, T.serial(plan.tiles) as t:
                    line = first_line + r
                    row = line // g.out_height * g.height + line % g.out_height * g.strides[0]
                    pixel = T.min(t * (plan.mr * plan.pixels), g.out_width - plan.mr * plan.pixels)
                    first = T.min(block * plan.vector, plan.pixels * g.groups - plan.vector)
                    x = (row * g.width + pixel * g.strides[1]) * g.groups + first
                    y = (line * g.out_width + pixel) * g.groups + first
                    self._tile(x, block * block_weights, block * plan.vector, y)
        return builder.get()

    def _tile(self, x: Any, weights: Any, constants: Any, y: Any) -> None:
        plan, g, lanes = self.plan, self.plan.geometry, self.plan.isa.lanes
        channels = [T.ramp(constants + v * lanes, 1, lanes) for v in range(DEPTH)]
        for i in range(plan.mr):
            for v in range(DEPTH):
                T.buffer_store(self.acc, self.bias[channels[v]], [self._register(i, v)])
        for column, uses in plan.columns().items():
            for quad in range(plan.quads):
                self._interleave(x + column * g.groups, quad)
                for i, kx in uses:
                    for v in range(DEPTH):
                        at, taps = self._register(i, v), self.taps[T.ramp(v * plan.vector, 1, plan.vector)]
                        w = weights + ((kx * plan.quads + quad) * DEPTH + v) * plan.vector
                        packed = self.weights[T.ramp(w, 1, plan.vector)]
                        T.buffer_store(self.acc, plan.isa.dot_lanes(self.acc[at], taps, packed), [at])
        for i in range(plan.mr):
            accumulators = [self.acc[self._register(i, v)] for v in range(DEPTH)]
            result = self.epilogue.finish(accumulators, [self.multiplier[c] for c in channels])
            T.buffer_store(self.y, result, [T.ramp(y + i * plan.pixels * g.groups, 1, plan.vector)])

    def _interleave(self, x: Any, quad: int) -> None:
        """Interleave four rows of a column; rows below the kernel are zeros."""
        plan, g = self.plan, self.plan.geometry
        rows = [
            self.x[T.ramp(x + (quad * DEPTH + r) * g.dilation[0] * self.row_stride, 1, plan.vector)]
            if quad * DEPTH + r < g.kernel[0]
            else T.broadcast(T.uint8(0), plan.vector)
            for r in range(DEPTH)
        ]
        upper, lower = (interleave(rows[r], rows[r + 1], "uint8", plan.vector) for r in (0, 2))
        for half in range(2):
            pairs = interleave(upper[half], lower[half], "uint16", plan.vector // 2)
            for v, taps in enumerate(pairs):
                at = T.ramp((2 * half + v) * plan.vector, 1, plan.vector)
                T.buffer_store(self.taps, T.reinterpret(f"uint8x{plan.vector}", taps), [at])

    def _register(self, i: int, v: int) -> Any:
        return T.ramp((i * DEPTH + v) * self.plan.isa.lanes, 1, self.plan.isa.lanes)
