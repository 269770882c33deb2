"""Sums, products and PRelu, in float32 and in 8 or 16 bits: two tensors, broadcast as NumPy does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.broadcast import Axis, axes, offsets
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Add, QAdd, QMultiply, QPRelu


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

    def combine(a: Any, b: Any) -> Any:
        lanes = lanes_of(a)
        product = centred(a, operator.a_zero_point) * centred(b, operator.b_zero_point)
        scaled = T.cast(product, vector_type("float32", lanes)) * splat(T.float32(operator.multiplier), lanes)
        return saturate(isa.rounded(scaled), operator, isa)

    return _binary(operation, 4 * isa.lanes, combine)


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


def _binary(operation: Operation, width: int, combine: Callable[[Any, Any], Any]) -> Kernel:
    """Return the loops over two broadcast operands; `combine` gets vectors of the same length."""
    a_type, b_type = operation.inputs[:2]
    *outer_axes, inner = axes(a_type.shape, b_type.shape)
    outer: tuple[Axis, ...] = tuple(outer_axes)
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
            T.buffer_store(y, combine(left, right), [span(row * inner.size + start, run.width)])
    return Kernel(builder.get(), (0, 1))
