"""Sums, products and PRelu, in float32 and in 8 or 16 bits: two tensors, broadcast as NumPy does.

Where the second one has a value for each channel, as the gates of a squeeze-excite block, its values are first repeated
for as many pixels as fill whole vectors:

    24 channels in vectors of 64:   8 pixels are 3 vectors of both, and pixels are computed 8 at a time
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.broadcast import Axis, axes, offsets
from pipeline.kernels.lib.buffers import workspace
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Add, QAdd, QMultiply, QPRelu

MOST_REPEATED = 2048
"""Values of the second operand that are repeated at most, so that they stay in the first-level cache."""

MIN_ROUNDS = 4
"""How often repeated values are used at least."""


def add(operation: Operation, machine: Machine) -> Kernel:
    """`clip(a + b)` in float32."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, Add):
        raise TypeError(f"Expected nn.add, got {operator}")
    return _binary(operation, 2 * isa.lanes, lambda a, b: isa.clipped(a + b, operator.clip_min, operator.clip_max))


def multiply(operation: Operation, machine: Machine) -> Kernel:
    """`a * b` in float32."""
    isa = machine.isa
    return _binary(operation, 2 * isa.lanes, lambda a, b: a * b)


def qadd(operation: Operation, machine: Machine) -> Kernel:
    """Fixed-point sum; see the operator's description."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, QAdd):
        raise TypeError(f"Expected qnn.add, got {operator}")
    if {t.dtype for t in (*operation.inputs, operation.output)} == {"uint8"}:
        return _binary(operation, 4 * isa.lanes, lambda a, b: isa.weighted_sum(a, b, operator))

    def combine(a: Any, b: Any) -> Any:
        lanes = lanes_of(a)
        left = centred(a, operator.a_zero_point) * splat(T.int32(operator.a_multiplier), lanes)
        right = centred(b, operator.b_zero_point) * splat(T.int32(operator.b_multiplier), lanes)
        half, shift = (splat(T.int32(v), lanes) for v in (1 << (operator.shift - 1), operator.shift))
        return saturate(T.shift_right(left + right + half, shift), operator, isa)

    return _binary(operation, 4 * isa.lanes, combine)


def qmultiply(operation: Operation, machine: Machine) -> Kernel:
    """Product of two tensors; see the operator's description."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, QMultiply):
        raise TypeError(f"Expected qnn.multiply, got {operator}")

    def as_float(quantized: Any, zero_point: int) -> Any:
        return T.cast(centred(quantized, zero_point), vector_type("float32", lanes_of(quantized)))

    def combine(a: Any, b: Any) -> Any:
        # This product, rounded once if at all, is what the integers' product is when it's converted.
        product = as_float(a, operator.a_zero_point) * b
        return saturate(isa.rounded(product * splat(T.float32(operator.multiplier), lanes_of(a))), operator, isa)

    return _binary(operation, 4 * isa.lanes, combine, lambda b: as_float(b, operator.b_zero_point))


def prelu(operation: Operation, machine: Machine) -> Kernel:
    """`x` or `x * slope` in float32."""

    def combine(x: Any, slope: Any) -> Any:
        return T.Select(x >= splat(T.float32(0), lanes_of(x)), x, x * slope)

    return _binary(operation, 2 * machine.isa.lanes, combine)


def qprelu(operation: Operation, machine: Machine) -> Kernel:
    """Product with one of two factors; see the operator's description."""
    operator, isa = operation.operator, machine.isa
    if not isinstance(operator, QPRelu):
        raise TypeError(f"Expected qnn.prelu, got {operator}")

    def combine(x: Any, slope: Any) -> Any:
        lanes, difference = lanes_of(x), centred(x, operator.input_zero_point)
        factor = T.Select(difference >= splat(T.int32(0), lanes), splat(T.float32(operator.multiplier), lanes), slope)
        return saturate(isa.rounded(T.cast(difference, vector_type("float32", lanes)) * factor), operator, isa)

    return _binary(operation, 4 * isa.lanes, combine)


def centred(quantized: Any, zero_point: int) -> Any:
    """Return quantized values as int32 minus their zero point."""
    lanes = lanes_of(quantized)
    return T.cast(quantized, vector_type("int32", lanes)) - splat(T.int32(zero_point), lanes)


def _as_it_is(value: Any) -> Any:
    return value


def _binary(
    operation: Operation,
    width: int,
    combine: Callable[[Any, Any], Any],
    prepare: Callable[[Any], Any] = _as_it_is,
) -> Kernel:
    """Return the loops over two broadcast operands.

    Args:
        operation: what to compute.
        width: elements of a vector.
        combine: from vectors of the first operand and of what `prepare` returned, of one length, to the result's.
        prepare: what can be done with values of the second operand alone.
    """
    a_type, b_type = operation.inputs[:2]
    *outer_axes, inner = axes(a_type.shape, b_type.shape)
    outer: tuple[Axis, ...] = tuple(outer_axes)
    repeats = _repeats(outer, inner, width)
    if repeats > 0:
        return _per_channel(operation, width, repeats, combine, prepare)
    rows = math.prod(axis.size for axis in outer)
    run = Run.of(inner.size, width, 1 if outer else MAX_TASKS)
    loop = loop_for(operation.output.size, rows * run.tasks)

    def operand(buffer: Any, row: Any, start: Any, which: int, stride: int) -> Any:
        offset = offsets(outer, row)[which]
        if stride == 0:
            return splat(buffer[offset], run.width)
        return buffer[span(offset + start, run.width)]

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        a = T.arg("a", T.buffer((a_type.size,), a_type.dtype))
        b = T.arg("b", T.buffer((b_type.size,), b_type.dtype))
        y = T.arg("y", T.buffer((operation.output.size,), operation.output.dtype))
        with loop(rows * run.tasks) as task, T.serial(run.steps) as step:
            row, start = task // run.tasks, run.start(task % run.tasks, step)
            left, right = operand(a, row, start, 0, inner.a_stride), operand(b, row, start, 1, inner.b_stride)
            T.buffer_store(y, combine(left, prepare(right)), [span(row * inner.size + start, run.width)])
    return Kernel(builder.get(), (0, 1))


def _repeats(outer: tuple[Axis, ...], inner: Axis, width: int) -> int:
    """Return for how many pixels a second operand with a value for each channel is repeated; 0 if it isn't."""
    if not outer or (inner.a_stride, inner.b_stride) != (1, 1):
        return 0
    repeats, pixels = width // math.gcd(inner.size, width), outer[-1]
    per_channel = (pixels.a_stride, pixels.b_stride) == (inner.size, 0)
    often = MIN_ROUNDS * repeats <= pixels.size and repeats * inner.size <= MOST_REPEATED
    return repeats if per_channel and often else 0


def _per_channel(
    operation: Operation,
    width: int,
    repeats: int,
    combine: Callable[[Any, Any], Any],
    prepare: Callable[[Any], Any],
) -> Kernel:
    """Return the loops over pixels, `repeats` at a time, which are whole vectors; see `_binary`."""
    a_type, b_type = operation.inputs[:2]
    *outer_axes, pixels, inner = axes(a_type.shape, b_type.shape)
    outer: tuple[Axis, ...] = tuple(outer_axes)
    images, run = math.prod(axis.size for axis in outer), Run.of(inner.size, width)
    rounds = -(-pixels.size // repeats)
    loop = loop_for(operation.output.size, rounds)
    per_task = rounds if loop is T.serial else max(MIN_ROUNDS, -(-rounds * images // MAX_TASKS))
    tasks = -(-rounds // per_task)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        a = T.arg("a", T.buffer((a_type.size,), a_type.dtype))
        b = T.arg("b", T.buffer((b_type.size,), b_type.dtype))
        y = T.arg("y", T.buffer((operation.output.size,), operation.output.dtype))
        prepared = str(prepare(b[0]).ty.dtype)
        with loop(images * tasks) as task:
            repeated = workspace(repeats * inner.size, prepared)
            image, first = task // tasks, task % tasks * per_task
            a_offset, b_offset = offsets(outer, image)
            with T.serial(repeats) as k, T.serial(run.steps) as step:
                start = run.start(0, step)
                values = prepare(b[span(b_offset + start, run.width)])
                T.buffer_store(repeated, values, [span(k * inner.size + start, run.width)])
            with T.serial(T.min(per_task, rounds - first)) as k, T.serial(repeats * inner.size // width) as step:
                start = tails.start(first + k, repeats, pixels.size) * inner.size + step * width
                result = combine(a[span(a_offset + start, width)], repeated[span(step * width, width)])
                T.buffer_store(y, result, [span(image * pixels.size * inner.size + start, width)])
    return Kernel(builder.get(), (0, 1))
