"""`qnn.split_bytes` and `qnn.join_sums`: before and after products of values of 16 bits.

for vector of x, in parallel:                  `qnn.split_bytes`
    store the high bytes, store the low bytes

for row of channels, in parallel:              `qnn.join_sums`
    for vector of channels:
        add both sums and the bias, and requantize
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for, over_channels
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import JoinSums

BOTH_ZERO_POINTS = 0x8080
"""Added to a value of 16 bits, it carries the low byte's sign into the high byte, and gives both their zero point."""

VECTORS = 2
"""How many vectors of sums are joined together."""


def split_bytes(operation: Operation, machine: Machine) -> Kernel:
    """Cut values of 16 bits into bytes."""
    size = operation.inputs[0].size
    run = Run.of(size, 4 * machine.isa.lanes, MAX_TASKS)
    lanes = run.width
    wide, narrow = vector_type("uint16", lanes), vector_type("uint8", lanes)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "int16"))
        y = T.arg("y", T.buffer((2 * size,), "uint8"))
        with loop_for(size, run.tasks)(run.tasks) as task, T.serial(run.steps) as step:
            start = run.start(task, step)
            value = T.reinterpret(wide, x[span(start, lanes)]) + splat(T.uint16(BOTH_ZERO_POINTS), lanes)
            high = T.shift_right(value, splat(T.uint16(8), lanes))
            T.buffer_store(y, T.cast(high, narrow), [span(start, lanes)])
            T.buffer_store(y, T.cast(value, narrow), [span(size + start, lanes)])
    return Kernel(builder.get(), (0,))


def join_sums(operation: Operation, machine: Machine) -> Kernel:
    """Add pairs of sums; the product with 256 is exact, so that it doesn't matter whether LLVM fuses it with a sum."""
    isa, operator = machine.isa, operation.operator
    if not isinstance(operator, JoinSums):
        raise TypeError(f"Expected qnn.join_sums, got {operator}")
    channels, size = operation.output.shape[-1], operation.output.size

    def joined(high: Any, low: Any, bias: Any, multiplier: Any) -> Any:
        total = (splat(T.float32(256.0), lanes_of(high)) * high + low) + bias
        scaled = total * multiplier
        return scaled if operator.output_dtype == "float32" else saturate(isa.rounded(scaled), operator, isa)

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((2 * size,), "float32"))
        bias = T.arg("bias", T.buffer((channels,), "float32"))
        multiplier = T.arg("multiplier", T.buffer((channels,), "float32"))
        y = T.arg("y", T.buffer((size,), operation.output.dtype))
        with over_channels(size, channels, VECTORS * isa.lanes) as (start, channel, width):
            high, low = (x[span(offset + start, width)] for offset in (0, size))
            constants = span(channel, width)
            T.buffer_store(y, joined(high, low, bias[constants], multiplier[constants]), [span(start, width)])
    return Kernel(builder.get(), (0, operation.constants[1], operation.constants[2]))
