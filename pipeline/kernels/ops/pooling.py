"""`nn.max_pool2d`, `nn.avg_pool2d` and `qnn.avg_pool2d`: vectors of channels, pixels outside the image left out.

    for output row, in parallel:
        for output pixel:
            for vector of channels:
                small window inside the image:     one expression of all its taps, without a branch
                any other:                         a loop over those taps that are inside

In an image of one row, threads get pieces of the channels instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.loops import MAX_TASKS, MAX_UNROLLED_TAPS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import AvgPool2d, MaxPool2d, QAvgPool2d

NO_HALO = (0, 0, 0, 0)

MAX_UINT16_TAPS = 257
"""How many 8-bit values fit a 16-bit sum, which takes half the instructions of a 32-bit sum: 257 * 255 = 65535."""


@dataclass(frozen=True)
class Taps:
    """One axis of a pooling window.

    Attributes:
        size: of the image.
        out: output positions.
        window: taps.
        stride: pixels between output positions.
        dilation: pixels between taps.
        before: padded pixels before the image.
    """

    size: int
    out: int
    window: int
    stride: int
    dilation: int
    before: int

    @property
    def all_inside(self) -> bool:
        """Whether no window reaches over an edge."""
        return self.before == 0 and (self.out - 1) * self.stride + (self.window - 1) * self.dilation < self.size

    def pixel(self, position: Any, tap: Any) -> Any:
        """Return where a tap is in the image."""
        return position * self.stride - self.before + tap * self.dilation

    def first(self, position: Any) -> Any:
        """Return the first tap inside the image."""
        if self.before == 0:
            return 0
        return T.max((self.before - position * self.stride + self.dilation - 1) // self.dilation, 0)

    def count(self, position: Any) -> Any:
        """Return how many taps are inside the image, from the first one on; 0 if the whole window is outside."""
        if self.all_inside:
            return self.window
        end = T.min((self.size - 1 + self.before - position * self.stride) // self.dilation + 1, self.window)
        return T.max(end - self.first(position), 0)


@dataclass(frozen=True)
class Reduction:
    """How the pixels of a window are combined.

    Attributes:
        dtype: of the accumulator.
        start: result of no pixels at all.
        combine: from accumulator and pixel to accumulator; vectors of `dtype`.
        finish: from accumulator, number of pixels and multiplier (None if the operator has none) to output.
    """

    dtype: str
    start: Any
    combine: Callable[[Any, Any], Any]
    finish: Callable[[Any, Any, Any], Any]


def max_pool2d(operation: Operation, machine: Machine) -> Kernel:
    """Compute the largest value of each window."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, MaxPool2d):
        raise TypeError(f"Expected nn.max_pool2d, got {operator}")
    dtype = operation.output.dtype
    lowest = T.float32(float("-inf")) if dtype == "float32" else tirx.min_value(dtype)
    largest = Reduction(dtype, lowest, T.max, lambda acc, pixels, multiplier: acc)
    taps = _taps(operation, operator, operator.dilation, operator.halo)
    return Kernel(_pool(operation, 4 * isa.lanes, taps, largest, operator.halo, operator.halo_value), (0,))


def whole_image(operation: Operation) -> bool:
    """Return whether the one window of a mean is all of the image."""
    operator, (_, height, width, _) = operation.operator, operation.inputs[0].shape
    if not isinstance(operator, AvgPool2d | QAvgPool2d) or operation.output.shape[1:3] != (1, 1):
        return False
    return operator.pool_size == (height, width) and not any(operator.padding)


def float_avg_pool2d(operation: Operation, machine: Machine) -> Kernel:
    """Sum each window and multiply by the position's own multiplier."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, AvgPool2d):
        raise TypeError(f"Expected nn.avg_pool2d, got {operator}")
    taps = _taps(operation, operator, (1, 1))
    return Kernel(_pool(operation, 4 * isa.lanes, taps, float_mean()), (0, operation.constants[1]))


def avg_pool2d(operation: Operation, machine: Machine) -> Kernel:
    """Sum each window and requantize with the position's own multiplier."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, QAvgPool2d):
        raise TypeError(f"Expected qnn.avg_pool2d, got {operator}")

    taps = operator.pool_size[0] * operator.pool_size[1]
    narrow = taps <= MAX_UINT16_TAPS and operation.inputs[0].dtype == "uint8"
    mean = integer_mean(operator, isa, "uint16" if narrow else "int32")
    return Kernel(
        _pool(operation, 4 * isa.lanes, _taps(operation, operator, (1, 1)), mean), (0, operation.constants[1])
    )


def float_mean() -> Reduction:
    """Return what a float32 mean is made of."""
    return Reduction(
        "float32",
        T.float32(0.0),
        lambda acc, value: acc + value,
        lambda acc, pixels, multiplier: acc * splat(multiplier, lanes_of(acc)),
    )


def integer_mean(operator: QAvgPool2d, isa: InstructionSet, dtype: str) -> Reduction:
    """Return what an integer mean is made of, with sums of `dtype`."""

    def finish(acc: Any, pixels: Any, multiplier: Any) -> Any:
        lanes = lanes_of(acc)
        centred = T.cast(acc, vector_type("int32", lanes)) - splat(T.int32(operator.input_zero_point) * pixels, lanes)
        return saturate(
            isa.rounded(T.cast(centred, vector_type("float32", lanes)) * splat(multiplier, lanes)), operator, isa
        )

    return Reduction(dtype, tirx.const(0, dtype), lambda acc, value: acc + value, finish)


def _taps(
    operation: Operation,
    operator: AvgPool2d | MaxPool2d | QAvgPool2d,
    dilation: tuple[int, int],
    halo: tuple[int, int, int, int] = NO_HALO,
) -> tuple[Taps, Taps]:
    """Return the window's rows and columns."""
    sizes, (padded_h, padded_w) = operation.inputs[0].shape[1:3], operation.output.shape[1:3]
    outs = (padded_h - halo[0] - halo[2], padded_w - halo[1] - halo[3])
    fields = zip(sizes, outs, operator.pool_size, operator.strides, dilation, operator.padding[:2], strict=True)
    rows, columns = (Taps(*f) for f in fields)
    return rows, columns


def _pool(
    operation: Operation,
    width: int,
    taps: tuple[Taps, Taps],
    reduction: Reduction,
    padding: tuple[int, int, int, int] = NO_HALO,
    halo_value: float = 0,
) -> tirx.PrimFunc:
    """Return the loops as a function of (x, y) or (x, multiplier, y).

    Args:
        operation: the pooling operator.
        width: values in a vector.
        taps: rows and columns of the window.
        reduction: what to do with the taps.
        padding: of the halo around the result.
        halo_value: what it is filled with.
    """
    (rows, columns), source, target = taps, operation.inputs[0], operation.output
    batch, channels = source.shape[0], source.shape[3]
    lines = batch * rows.out
    run = Run.of(channels, width, 1 if lines > 1 else MAX_TASKS)
    vector = vector_type(reduction.dtype, run.width)
    loop = loop_for(source.size, lines * run.tasks)
    halo = Halo(rows.out, columns.out, channels, *padding)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        multiplier = [T.arg("multiplier", T.buffer(t.shape, t.dtype)) for t in operation.inputs[1:]]
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        halo.fill_part(y, batch * halo.padded_height, 0, 1, halo_value, width)
        with loop(lines * run.tasks) as t, T.serial(columns.out) as column, T.serial(run.steps) as step:
            line, channel = t // run.tasks, run.start(t % run.tasks, step)
            image, row = line // rows.out * rows.size, line % rows.out
            scale = multiplier[0][row, column] if multiplier else None

            def load(ky: Any, kx: Any) -> Any:
                pixel = (image + rows.pixel(row, ky)) * columns.size + columns.pixel(column, kx)
                return T.cast(x[span(pixel * channels + channel, run.width)], vector)

            def store(acc: Any, pixels: Any) -> None:
                result = reduction.finish(acc, pixels, scale)
                start = halo.start(line // rows.out, line % rows.out) + column * channels + channel
                T.buffer_store(y, result, [span(start, run.width)])

            def unrolled() -> None:
                values = [load(ky, kx) for ky in range(rows.window) for kx in range(columns.window)]
                store(functools.reduce(reduction.combine, values), len(values))

            def looped() -> None:
                acc, everything = register_buffer(run.width, reduction.dtype), span(0, run.width)
                T.buffer_store(acc, splat(reduction.start, run.width), [everything])
                with T.serial(rows.count(row)) as ky, T.serial(columns.count(column)) as kx:
                    value = load(rows.first(row) + ky, columns.first(column) + kx)
                    T.buffer_store(acc, reduction.combine(acc[everything], value), [everything])
                store(acc[everything], rows.count(row) * columns.count(column))

            if rows.window * columns.window > MAX_UNROLLED_TAPS:
                looped()
            elif rows.all_inside and columns.all_inside:
                unrolled()
            else:
                whole = (rows.count(row) == rows.window, columns.count(column) == columns.window)
                with T.If(T.And(*whole)):
                    with T.Then():
                        unrolled()
                    with T.Else():
                        looped()
    return builder.get()
