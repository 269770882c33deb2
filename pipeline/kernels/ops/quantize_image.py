"""`qnn.quantize_image`: planes of float32 become pixels of uint8, within their padding, unfolded, in one pass.

    for chunk of the output's lines, in parallel:
        for row of the padded image that they hold:
            for vector of pixels:                  quantize each channel's plane; a pixel's values are one int32; pack
            if a line of the output is complete:   interleave its rows from their buffer, store

A row goes through a buffer that stays in the first-level cache: there, stores may be longer than what is right in them,
as the next ones cover what isn't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.ir.types import TensorType
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.buffers import stack_buffer
from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import as_stored, span, splat
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.ops.quantize import clamped
from pipeline.ops import QuantizeImage

CHUNKS = 8
"""How many chunks the lines of an image are divided into for the threads."""

SHUFFLED_BYTES = 16
"""Length in bytes of the parts of a vector within which shuffles move bytes."""

WORD_BYTES = 4
"""Bytes that are copied at once where a pixel of a line fills more than a vector."""

CYCLES_PER_SHUFFLE = 0.75
"""Cycles for the bytes of one row in a vector of a line: one or two shuffles start in a cycle."""


def unfolding_cycles(operator: QuantizeImage, output: TensorType, isa: InstructionSet) -> float:
    """Return about how many cycles it takes to interleave the rows of a line."""
    _, _, width, pixel_bytes = output.shape
    if operator.rows == 1:
        return 0
    together = max(
        1, _line_vector(width * pixel_bytes, operator.rows, pixel_bytes // operator.rows, isa) // pixel_bytes
    )
    return output.size / pixel_bytes / together * operator.rows * CYCLES_PER_SHUFFLE


def quantize_image(operation: Operation, machine: Machine) -> Kernel:
    """x: [N,C,H,W] float32 -> [N,lines,W,rows*C] uint8 in a halo."""
    isa = machine.isa
    operator, source, target = operation.operator, operation.inputs[0], operation.output
    if not isinstance(operator, QuantizeImage):
        raise TypeError(f"Expected qnn.quantize_image, got {operator}")
    batch, lines = target.shape[:2]
    per_chunk = -(-lines // CHUNKS)
    chunks = -(-lines // per_chunk)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), "float32"))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        with loop_for(source.size, batch * chunks)(batch * chunks) as p:
            image, first = p // chunks, p % chunks * per_chunk
            count = T.min(per_chunk, lines - first)
            rows = RowBuffer.declare(operator, source, target.dtype, isa)
            rows.write_lines(x, image, first, count, y, image * lines + first)
    return Kernel(builder.get(), (0,))


@dataclass(frozen=True)
class RowBuffer:
    """The last rows of a padded image, channels last.

    Attributes:
        buffer: values as they are stored in the output, one slot for each row of a line.
        stride: bytes from slot to slot: a row, and a vector that may be read or written beyond it.
        operator: the operator.
        isa: the instruction set.
        channels, height, width: of the image.
    """

    buffer: Any
    stride: int
    operator: QuantizeImage
    isa: InstructionSet
    channels: int
    height: int
    width: int

    @classmethod
    def declare(cls, operator: QuantizeImage, image: TensorType, dtype: str, isa: InstructionSet) -> RowBuffer:
        """Declare the buffer for images [N,C,H,W] whose pixels are stored in a dtype, on the stack."""
        _, channels, height, width = image.shape
        stride = (operator.halo[1] + width + operator.halo[3]) * channels + max(4 * isa.lanes, 2 * SHUFFLED_BYTES)
        return cls(stack_buffer(operator.rows * stride, dtype), stride, operator, isa, channels, height, width)

    def write_lines(self, x: Any, image: Any, first: Any, count: Any, y: Any, at: Any) -> None:
        """Write neighbouring lines of the output.

        Args:
            x: the images.
            image: which one of them.
            first: the first line's number in it.
            count: how many lines.
            y: where they are written, flat.
            at: the first line's number there.
        """
        rows, step = self.operator.rows, self.operator.row_step
        with T.serial((count - 1) * step + rows) as t:
            self.fill(x, image, first * step + t, t % rows)
            complete = t - (rows - 1)
            with T.If(T.And(complete >= 0, complete % step == 0)), T.Then():
                self.write_line(y, at + complete // step, [(t + 1 + r) % rows for r in range(rows)])

    def fill(self, x: Any, image: Any, padded_row: Any, slot: Any) -> None:
        """Quantize a row of an image, counted in its halo, into a slot; a row of the halo only fills it."""
        top, left, _, right = self.operator.halo
        row, start, run = padded_row - top, slot * self.stride, Run.of(self.width, self.isa.lanes)
        with T.If(T.And(row >= 0, row < self.height)):
            with T.Then():
                self._fill(start, left)
                with T.serial(run.steps) as step:
                    column = run.start(0, step)
                    planes = [
                        ((image * self.channels + c) * self.height + row) * self.width + column
                        for c in range(self.channels)
                    ]
                    at = start + (left + column) * self.channels
                    values = as_stored(self._pixels(x, planes, run.width), str(self.buffer.dtype))
                    T.buffer_store(self.buffer, values, [span(at, 4 * run.width)])
                self._fill(start + (left + self.width) * self.channels, right)
            with T.Else():
                self._fill(start, left + self.width + right)

    def _fill(self, start: Any, pixels: int) -> None:
        run = Run.of(max(1, pixels * self.channels), 4 * self.isa.lanes)
        with T.serial(run.steps if pixels else 0) as step:
            value = as_stored(splat(tirx.const(self.operator.halo_value, "uint8"), run.width), str(self.buffer.dtype))
            T.buffer_store(self.buffer, value, [span(start + run.start(0, step), run.width)])

    def _pixels(self, x: Any, planes: list[Any], lanes: int) -> Any:
        """Return quantized `lanes` pixels, one after another, and behind them what makes four bytes of each."""
        total = None
        for c, plane in enumerate(planes):
            quantized = self.isa.rounded(clamped(x[span(plane, lanes)], self.operator)) + splat(
                T.int32(self.operator.zero_point), lanes
            )
            shifted = T.shift_left(quantized, splat(T.int32(8 * c), lanes))
            total = quantized if total is None else T.bitwise_or(total, shifted)
        values = lanes * self.channels
        order = [4 * (k // self.channels) + k % self.channels for k in (i % values for i in range(4 * lanes))]
        return T.Shuffle([T.reinterpret(f"uint8x{4 * lanes}", total)], order)

    def write_line(self, y: Any, line: Any, slots: list[Any]) -> None:
        """Store a line of the output, whose rows are in `slots`."""
        left, right = self.operator.halo[1], self.operator.halo[3]
        pixels, channels = left + self.width + right, self.channels
        if len(slots) == 1:
            # Nothing is interleaved: a row is copied as bytes.
            pixels, channels = pixels * channels, 1
        pixel_bytes = len(slots) * channels
        length = pixels * pixel_bytes
        start, width = line * length, _line_vector(length, len(slots), channels, self.isa)

        def store(pixel: Any, offset: int) -> None:
            vector = self._interleaved(slots, channels, pixel, offset, width)
            T.buffer_store(y, vector, [span(start + pixel * pixel_bytes + offset, width)])

        if pixel_bytes > width and channels <= WORD_BYTES <= 2 * channels:
            with T.serial(pixels) as pixel:
                self._store_words(y, start + pixel * pixel_bytes, slots, channels, pixel)
            return
        if pixel_bytes > width:
            with T.serial(pixels) as pixel:
                for first in range(0, pixel_bytes, width):
                    store(pixel, min(first, pixel_bytes - width))
            return
        group = SHUFFLED_BYTES // channels
        if len(slots) > 1 and width == SHUFFLED_BYTES and group <= pixels:
            # As many pixels as a shuffle finds in a vector of each row fill several vectors; the last of these overlap.
            offsets = tails.starts(width, group * pixel_bytes).tolist()
            with T.serial(-(-pixels // group)) as step:
                pixel = tails.start(step, group, pixels)
                for offset in offsets:
                    store(pixel, offset)
            return
        together = width // pixel_bytes
        with T.serial((length - width) // (together * pixel_bytes) + 1) as step:
            store(step * together, 0)
        store(*divmod(length - width, pixel_bytes))

    def _store_words(self, y: Any, at: Any, slots: list[Any], channels: int, pixel: Any) -> None:
        """Store a pixel of a line, row by row.

        A word holds more than a row's values, but less than two rows'. What is too much, the next row's values cover;
        the last row's are stored one by one, as nothing covers what is behind a pixel.
        """
        *others, last = (slot * self.stride + pixel * channels for slot in slots)
        for r, place in enumerate(others):
            T.buffer_store(y, self.buffer[span(place, WORD_BYTES)], [span(at + r * channels, WORD_BYTES)])
        for c in range(channels):
            T.buffer_store(y, self.buffer[last + c], [at + len(others) * channels + c])

    def _interleaved(self, slots: list[Any], channels: int, pixel: Any, offset: int, width: int) -> Any:
        """Return `width` bytes of a line, from byte `offset` of a pixel on."""
        pixel_bytes = len(slots) * channels
        places = [divmod(offset + k, pixel_bytes) for k in range(width)]
        # Bytes of a row that are needed, as a power of two.
        needed = 1 << ((places[-1][0] + 1) * channels - 1).bit_length()
        total = None
        for r, slot in enumerate(slots):
            source = self.buffer[span(slot * self.stride + pixel * channels, needed)]
            order = [p * channels + b % channels if b // channels == r else needed for p, b in places]
            if order == list(range(needed)):
                return source
            if needed < width:
                # Copies of it in all parts of the vector make this a shuffle within them.
                copies = width // needed
                source = T.Shuffle([source] * copies, list(range(needed)) * copies)
                order = [k // needed * needed + b if b < needed else width for k, b in enumerate(order)]
            row = T.Shuffle([source, splat(tirx.const(0, str(self.buffer.dtype)), max(needed, width))], order)
            total = row if total is None else T.bitwise_or(total, row)
        return total


def _line_vector(length: int, rows: int, channels: int, isa: InstructionSet) -> int:
    """Return how many bytes of a line are put together at once.

    More than one row is interleaved by shuffles within 128 bits, if what they need of a row is no longer than that.
    """
    width = Run.of(length, 4 * isa.lanes).width
    while rows > 1 and width > SHUFFLED_BYTES and (-(-width // (rows * channels)) * channels > SHUFFLED_BYTES):
        width //= 2
    return width
