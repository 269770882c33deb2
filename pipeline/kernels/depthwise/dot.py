"""Depthwise convolution with four-fold dot products: each sums up to four taps, mostly of one row of the kernel.

A dot product wants a channel's four values next to each other, where NHWC has different channels next to each other. So
the bytes of four neighbouring pixels, 4 * lanes channels of each, are interleaved, which gives four vectors in which
each int32 lane holds four taps of one channel. They serve all output rows that the input row is part of, and so the
loops go down the rows and interleave each once, while the sums of `live` output rows are in registers:

    for (image, chunk of output rows, part of a row), in parallel:
        for (place, vector of channels) in that part:
            for row above:                            unrolled: what it adds to the sums of the first output rows
            for output row of the chunk:
                for input row that comes in:          unrolled: interleave, four dot products for each output row
                the uppermost sums:                   requantize, store 4 * lanes bytes
                                                      the others move up

Interleaving works within 128 bits, as x86 does it, so the four vectors hold channels in another order
(`Band.channel_order`); constants are stored in it, and narrowing the results to bytes undoes it for free.

Where neighbouring pixels of the output are neighbours in the input, they can be taken for more channels: a *place* is
as many pixels as it takes to fill vectors. With a stride, channels that don't fill a vector are gathered from several
pixels. What doesn't divide overlaps (`lib/tails.py`). `plan` decides all this.

Threads get chunks of rows, as those of other layers do, so that they find their input in their own core's cache. An
image of few rows is one chunk, of which they get columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.depthwise.plan import DEPTH, MAX_PIXELS, Band, Plan, Use, pack_channels, pack_weights
from pipeline.kernels.gemm.constants import IntegerConstants
from pipeline.kernels.gemm.epilogue import MOST, Addends, Epilogue, requantize
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.gemm.parallel import TASKS, worth_threads
from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.vectors import interleave, joined, part
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QConv2d

MAX_KERNEL = 7
"""Largest height and width of a kernel, as its taps are unrolled."""

CHUNK_ROWS = 14
"""Output rows in a chunk, at the least. Each begins with input rows that the one before has interleaved, too."""

PARALLEL_DEPTH = 2
"""What a dot product counts for where an operation is weighed for threads. Of four, it often sums three, and more goes
into shuffles; but smaller layers (up to about 10 microseconds) cost their neighbours more than they save, when these
find half of their input in another core's cache.
"""

INTERLEAVED_BYTES = 16
"""Bytes that interleaving works within."""

MIN_CHANNELS = 64
"""Places of fewer channels are for the generic kernel."""


def fills_vectors(operation: Operation) -> bool:
    """Return whether a depthwise convolution has channels and pixels enough for these loops."""
    operator, g = operation.operator, geometry_of(operation)
    if operation.inputs[0].dtype == "int16":
        return False
    fits = 1 < g.kernel[0] <= MAX_KERNEL and g.kernel[1] <= MAX_KERNEL
    few = min(MAX_PIXELS, g.out_width)
    # With a stride, a vector is gathered of as many channels as have a power of two in common.
    channels = g.groups if g.strides[1] == 1 or g.groups >= MIN_CHANNELS else g.groups & -g.groups
    wide = g.groups >= MIN_CHANNELS or channels * few >= MIN_CHANNELS
    return g.depthwise and fits and wide and isinstance(operator, QConv2d) and operator.stores_bytes


def depthwise_dot(operation: Operation, machine: Machine) -> Kernel:
    """Sum up to four taps with one dot product; the zero point is in the bias."""
    isa = machine.isa
    plan = Plan.choose(geometry_of(operation), machine)
    if plan is None:
        raise TypeError(
            f"Expected a depthwise qnn.conv2d of at least {MIN_CHANNELS} channels, got {operation.operator}"
        )
    constants = IntegerConstants.of(
        operation, as_floats=isa.has(Capability.FUSED_MULTIPLY_ADD), activation_offset=isa.activation_offset
    )
    # What is interleaved in 128 bits stays in order.
    in_order = DEPTH * isa.lanes == INTERLEAVED_BYTES
    # A function's summands are worth it where sums alone don't fit the registers, too.
    loads_addends = isa.overwrites_addends or plan.sums_fit_registers or constants.function is not None
    epilogue = requantize(constants, isa, interleaved=not in_order, kept=False, loads_addends=loads_addends)
    func = _built(plan, operation.inputs[0].dtype, epilogue)
    scales = constants.packed_scales(functools.partial(pack_channels, plan))
    packed = pack_channels(plan, constants.start), scales
    return Kernel(func, (0, pack_weights(plan, constants.weight), *packed))


@functools.lru_cache(maxsize=MOST)
def _built(plan: Plan, stored: str, epilogue: Epilogue) -> tirx.PrimFunc:
    # A model has equal layers, and is lowered several times, with other constants.
    return _Nest(plan, stored, epilogue).build()


class _Nest:
    def __init__(self, plan: Plan, stored: str, epilogue: Epilogue) -> None:
        self.plan, self.stored, self.epilogue = plan, stored, epilogue
        g = plan.geometry
        self.in_stride, self.out_stride = g.width * g.groups, g.out_width * g.groups
        self.products = len(plan.products())
        self.block_weights = self.products * DEPTH * plan.vector
        # Beside weights and sums, registers hold what is interleaved, and some of the other constants.
        spare = plan.isa.registers - DEPTH * (self.products + plan.live)
        self.weights_are_kept, self.constants_are_kept = spare >= 2 * DEPTH, spare >= 3 * DEPTH
        self.parallel = worth_threads(g, plan.isa, PARALLEL_DEPTH)
        chunks = min(TASKS, max(g.out_height // CHUNK_ROWS, 1)) if self.parallel else 1
        self.rows = -(-g.out_height // chunks)
        self.chunks = -(-g.out_height // self.rows)
        self.parts = TASKS // self.chunks if self.parallel else 1

    def build(self) -> tirx.PrimFunc:
        plan, g = self.plan, self.plan.geometry
        blocks = plan.blocks
        loop = T.parallel if self.parallel else T.serial
        with IRBuilder() as builder, T.prim_func():
            # LLVM would read all that a loop doesn't change once, and put what doesn't fit the registers on the stack,
            # which isn't aligned to vectors. It can't, if the output might overlap it.
            T.func_attr({"tirx.noalias": self.constants_are_kept, "op_pattern": 8})
            self.x = T.arg("x", T.buffer((g.batch * g.height * self.in_stride,), self.stored))
            self.weights = T.arg("weights", T.buffer((blocks * self.block_weights,), plan.isa.weight_dtype))
            self.bias = T.arg("bias", T.buffer((blocks * plan.vector,), "int32"))
            self.multiplier = T.arg("multiplier", T.buffer((self.epilogue.scales * blocks * plan.vector,), "float32"))
            self.y = T.arg("y", T.buffer((g.batch * g.out_height * self.out_stride,), self.epilogue.dtype))
            with plan.isa.functions(), loop(g.batch * self.chunks * self.parts) as p:
                self.acc = register_buffer(plan.live * plan.vector, "int32")
                self.taps = register_buffer(DEPTH * plan.vector, plan.isa.activation_dtype)
                self.kept = register_buffer(self.block_weights, plan.isa.weight_dtype)
                if self.epilogue.addends:
                    self.addends = Addends(self.epilogue, plan.isa, DEPTH)
                image = p // (self.chunks * self.parts)
                row = tails.start(p // self.parts % self.chunks, self.rows, g.out_height)
                x = (image * g.height + row * g.strides[0]) * self.in_stride
                y = (image * g.out_height + row) * self.out_stride
                first_block = 0
                for band in plan.bands:
                    self._band(band, x, y, first_block, p % self.parts)
                    first_block += band.blocks
        return builder.get()

    def _band(self, band: Band, x: Any, y: Any, first_block: int, number: Any) -> None:
        """Compute a part of a chunk's rows."""
        plan, g = self.plan, self.plan.geometry
        places = plan.places(band)
        per_part = -(-places * band.blocks // self.parts)
        # Pixels of a place, and so their blocks, share cache lines.
        block_by_block = band.pixels == 1 and band.blocks * self.block_weights > plan.machine.resident_bytes
        with T.serial(T.max(T.min(per_part, places * band.blocks - number * per_part), 0)) as r:
            run = number * per_part + r
            block, place = (run // places, run % places) if block_by_block else (run % band.blocks, run // band.blocks)
            pixel = tails.start(place, band.pixels, g.out_width)
            channel = band.first + tails.start(block, plan.vector, band.values)
            self._column(
                band, x + pixel * g.strides[1] * g.groups + channel, y + pixel * g.groups + channel, first_block + block
            )

    def _column(self, band: Band, x: Any, y: Any, block: Any) -> None:
        """Compute a vector of each row of a chunk."""
        plan, g = self.plan, self.plan.geometry
        last = min(plan.live - 1, self.rows)
        if self.weights_are_kept:
            for number in range(self.products * DEPTH):
                T.buffer_store(self.kept, self._stored_weights(block, number), [self._bytes(number)])
        if self.epilogue.addends:
            self.addends.prepare(*self._scales(block))
        for output in range(plan.live):
            self._start(output, block)
        for row in range(plan.fresh_rows.start):
            self._input_row(band, x, block, plan.uses(row, self.rows))

        def output_row(number: Any, remaining: int) -> None:
            for row in plan.fresh_rows:
                start = x + number * (g.strides[0] * self.in_stride)
                self._input_row(band, start, block, plan.uses(row, remaining))
            self._finish(band, y + number * self.out_stride, block)

        with T.serial(self.rows - last) as r:
            output_row(r, plan.live)
        for remaining in range(last, 0, -1):
            output_row(self.rows - remaining, remaining)

    def _start(self, output: int, block: Any) -> None:
        for v, vector in enumerate(self._constants(self.bias, block)):
            T.buffer_store(self.acc, vector, [self._sums(output, v)])

    def _input_row(self, band: Band, x: Any, block: Any, uses: list[Use]) -> None:
        for use in uses:
            # Any vector will do where the weight is zero.
            some = next(tap for tap in use.taps if tap)
            vectors = [self._vector(band, x, *(tap or some)) for tap in use.taps]
            for half in range(2):
                self._interleave(vectors, half)
                for output, number in use.products:
                    for v in (2 * half, 2 * half + 1):
                        at, taps = self._sums(output, v), self.taps[self._bytes(v)]
                        weights = self._weights(block, number * DEPTH + v)
                        T.buffer_store(self.acc, self._dot(number)(self.acc[at], taps, weights), [at])

    def _dot(self, number: int) -> Callable[[Any, Any, Any], Any]:
        """Return what multiplies the taps of a product."""
        isa, taps = self.plan.isa, self.plan.products()[number].taps
        odd_ones_are_zero = not any(taps[1::2])
        return isa.dot_even_lanes if isinstance(isa, PairwiseInstructionSet) and odd_ones_are_zero else isa.dot_lanes

    def _weights(self, block: Any, number: int) -> Any:
        return self.kept[self._bytes(number)] if self.weights_are_kept else self._stored_weights(block, number)

    def _stored_weights(self, block: Any, number: int) -> Any:
        return self.weights[T.ramp(block * self.block_weights + number * self.plan.vector, 1, self.plan.vector)]

    def _vector(self, band: Band, x: Any, row: int, column: int) -> Any:
        plan, g = self.plan, self.plan.geometry
        start = x + row * g.dilation[0] * self.in_stride + column * g.dilation[1] * g.groups
        pieces = plan.pieces(band)
        length, distance = plan.vector // pieces, g.strides[1] * g.groups
        return plan.isa.activations(joined([self.x[T.ramp(start + i * distance, 1, length)] for i in range(pieces)]))

    def _interleave(self, vectors: list[Any], half: int) -> None:
        """Put the upper or lower halves of each 128 bits, interleaved, into two of the four vectors of taps."""
        size = self.plan.vector
        first, second = (interleave(vectors[i], vectors[i + 1], "uint8", size)[half] for i in (0, 2))
        values = f"{self.plan.isa.activation_dtype}x{size}"
        for i, taps in enumerate(interleave(first, second, "uint16", size // 2)):
            T.buffer_store(self.taps, T.reinterpret(values, taps), [self._bytes(2 * half + i)])

    def _finish(self, band: Band, y: Any, block: Any) -> None:
        """Store the uppermost output row's vector, and move the other rows' sums up."""
        plan = self.plan
        sums = [self.acc[self._sums(0, v)] for v in range(DEPTH)]
        run = [(0, DEPTH)]
        loaded = self.addends.loads(run, sums)(run) if self.epilogue.addends else {}
        result = self.epilogue.finish(sums, *self._scales(block), **loaded)
        pieces = plan.pieces(band)
        length = plan.vector // pieces
        for i in range(pieces):
            at = T.ramp(y + i * plan.geometry.groups, 1, length)
            T.buffer_store(self.y, part(result, i * length, length), [at])
        for output in range(1, plan.live):
            for v in range(DEPTH):
                T.buffer_store(self.acc, self.acc[self._sums(output, v)], [self._sums(output - 1, v)])
        self._start(plan.live - 1, block)

    def _scales(self, block: Any) -> list[list[Any]]:
        """Return the multipliers of a block, and as many vectors of each further scale."""
        return [self._constants(self.multiplier, k * self.plan.blocks + block) for k in range(self.epilogue.scales)]

    def _constants(self, buffer: Any, block: Any) -> list[Any]:
        """Return a block's vectors of bias, or of what results are multiplied by."""
        if self.epilogue.addends:
            # The addends are loaded many at a time, and so are these.
            return list(self.plan.isa.stream(buffer, block * self.plan.vector).take(DEPTH))
        return [buffer[self._lanes(block * DEPTH + v)] for v in range(DEPTH)]

    def _sums(self, output: int, v: int) -> Any:
        return self._lanes(output * DEPTH + v)

    def _lanes(self, number: Any) -> Any:
        return T.ramp(number * self.plan.isa.lanes, 1, self.plan.isa.lanes)

    def _bytes(self, number: int) -> Any:
        return T.ramp(number * self.plan.vector, 1, self.plan.vector)
