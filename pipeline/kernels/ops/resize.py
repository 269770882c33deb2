"""Resizing of images.

`nn.resize_bilinear` and `qnn.resize_bilinear`:

    for row of the result, in parallel:
        mix the two rows of x that it lies between     in vectors of neighbours, 16 bits for uint8, 32 for int16
        for pixel of the row:
            mix two pixels of that                     in vectors of channels

`nn.upsample_concat`: each pixel is put together from one of each image, row by row.

    for row of the padded result, in parallel:
        halo
        for pixel:
            for image:                             unrolled: copy the channels of its pixel, in vectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import ResizeBilinear, UpsampleConcat

Mix = Callable[[Any, Any, Any], Any]

COMPUTED_VECTORS, MOVED_VECTORS = 2, 4
"""How many vectors of 32-bit values are computed together, and how many one step moves."""


@dataclass(frozen=True)
class _Arithmetic:
    """What differs between 8 bits, 16 bits and float32.

    Attributes:
        dtype: of x and the result.
        mixed: of a mixed row.
        weight: of the fractions.
        one: the fraction that takes all of the second value.
        mix_rows: from two vectors of x and a fraction to one of a mixed row.
        mix_columns: from two vectors of a mixed row and a fraction to one of the result.
    """

    dtype: str
    mixed: str
    weight: str
    one: int
    mix_rows: Mix
    mix_columns: Mix


def float_bilinear(operation: Operation, machine: Machine) -> Kernel:
    """Float32."""
    isa = machine.isa

    def mix(first: Any, second: Any, fraction: Any) -> Any:
        lanes = lanes_of(first)
        return first * splat(T.float32(1.0) - fraction, lanes) + second * splat(fraction, lanes)

    return _bilinear(operation, isa, _Arithmetic("float32", "float32", "float32", 1, mix, mix))


def integer_bilinear(operation: Operation, machine: Machine) -> Kernel:
    """8 bits more for rows, which 16 just hold, or 32 with values of 16 bits, and 8 more for columns."""
    isa, dtype = machine.isa, operation.inputs[0].dtype
    mixed = "uint16" if dtype == "uint8" else "int32"

    def mix_rows(first: Any, second: Any, fraction: Any) -> Any:
        lanes = lanes_of(first)
        wide = vector_type(mixed, lanes)
        weights = (splat(T.cast(weight, mixed), lanes) for weight in (T.int32(256) - fraction, fraction))
        left, right = (T.cast(v, wide) * weight for v, weight in zip((first, second), weights, strict=True))
        return left + right

    def mix_columns(first: Any, second: Any, fraction: Any) -> Any:
        lanes = lanes_of(first)
        left, right = (T.cast(value, vector_type("int32", lanes)) for value in (first, second))
        # One product, not two: those of 32 bits are slow.
        total = left * splat(T.int32(256), lanes) + (right - left) * splat(fraction, lanes)
        rounded = T.shift_right(total + splat(T.int32(1 << 15), lanes), splat(T.int32(16), lanes))
        return T.cast(rounded, vector_type(dtype, lanes))

    return _bilinear(operation, isa, _Arithmetic(dtype, mixed, "int32", 256, mix_rows, mix_columns))


def _bilinear(operation: Operation, isa: InstructionSet, arithmetic: _Arithmetic) -> Kernel:
    operator, (batch, height, width, channels) = operation.operator, operation.inputs[0].shape
    if not isinstance(operator, ResizeBilinear):
        raise TypeError(f"Expected a bilinear resize, got {operator}")
    out_h, out_w = operator.size
    tables = [
        table
        for size, out, start, step in zip((height, width), operator.size, operator.starts, operator.steps, strict=True)
        for table in _places(size, out, start, step, arithmetic)
    ]
    line, size = width * channels, operation.output.size
    # Where there is only one, it is its own neighbour; its fraction is zero.
    next_row, next_pixel = line * (height > 1), channels * (width > 1)
    across, along = (Run.of(length, isa.lanes * COMPUTED_VECTORS) for length in (line, channels))
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((operation.inputs[0].size,), arithmetic.dtype))
        rows = T.arg("rows", T.buffer((out_h,), "int32"))
        row_fractions = T.arg("row_fractions", T.buffer((out_h,), arithmetic.weight))
        columns = T.arg("columns", T.buffer((out_w,), "int32"))
        column_fractions = T.arg("column_fractions", T.buffer((out_w,), arithmetic.weight))
        y = T.arg("y", T.buffer((size,), arithmetic.dtype))
        with loop_for(size, batch * out_h)(batch * out_h) as task:
            mixed = T.alloc_buffer((line,), arithmetic.mixed)
            row = task % out_h
            start = (task // out_h * height + rows[row]) * line
            with T.serial(across.steps) as step:
                at = across.start(0, step)
                above, below = (x[span(start + at + offset, across.width)] for offset in (0, next_row))
                T.buffer_store(mixed, arithmetic.mix_rows(above, below, row_fractions[row]), [span(at, across.width)])
            with T.serial(out_w) as column, T.serial(along.steps) as step:
                channel = along.start(0, step)
                at = columns[column] * channels + channel
                left, right = (mixed[span(at + offset, along.width)] for offset in (0, next_pixel))
                result = arithmetic.mix_columns(left, right, column_fractions[column])
                T.buffer_store(y, result, [span((task * out_w + column) * channels + channel, along.width)])
    return Kernel(builder.get(), (0, *tables))


def _places(
    size: int, out: int, start: float, step: float, arithmetic: _Arithmetic
) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Return for each position of one axis the first of its two pixels, and the second one's fraction; [out] each."""
    positions = np.clip(start + np.arange(out) * step, 0, size - 1)
    first = np.minimum(np.floor(positions), max(size - 2, 0))
    fractions = (positions - first) * arithmetic.one
    return first.astype("int32"), (np.rint(fractions) if arithmetic.one > 1 else fractions).astype(arithmetic.weight)


def upsample_concat(operation: Operation, machine: Machine) -> Kernel:
    """Concatenate enlarged images; a pixel's copies are few and short, so memory limits the speed."""
    isa = machine.isa
    operator, target, images = operation.operator, operation.output, operation.inputs
    if not isinstance(operator, UpsampleConcat):
        raise TypeError(f"Expected nn.upsample_concat, got {operator}")
    batch, padded_h, padded_w, channels = target.shape
    top, left, bottom, right = operator.halo
    height, width = padded_h - top - bottom, padded_w - left - right
    halo, most = Halo(height, width, channels, *operator.halo), isa.lanes * MOVED_VECTORS

    def copy(x: Any, y: Any, start: Any, to: Any, length: int) -> None:
        run = Run.of(length, most)
        with T.serial(run.steps) as step:
            offset = run.start(0, step)
            T.buffer_store(y, x[span(start + offset, run.width)], [span(to + offset, run.width)])

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        parts = [T.arg(f"x{i}", T.buffer((x.size,), x.dtype)) for i, x in enumerate(images)]
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        rows = batch * padded_h
        with loop_for(target.size, rows)(rows) as r:
            if not halo.empty:
                halo.fill(y, r, operator.halo_value, most)
            image, inside = r // padded_h, r % padded_h - top
            with T.If(T.And(inside >= 0, inside < height)), T.Then(), T.serial(width) as column:
                to = halo.start(image, inside) + column * channels
                for part, (_, part_h, part_w, depth), (down, across) in zip(
                    parts, (x.shape for x in images), operator.scales, strict=True
                ):
                    pixel = (image * part_h + inside // down) * part_w + column // across
                    copy(part, y, pixel * depth, to, depth)
                    to = to + depth
    return Kernel(builder.get(), tuple(range(len(images))))
