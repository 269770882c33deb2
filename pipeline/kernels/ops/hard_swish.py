"""`qnn.hard_swish`.

for row of channels, in parallel:
    for vector of channels:
        apply the function in float32, and requantize
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import lanes_of, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.ops.elementwise import centred
from pipeline.ops import QHardSwish


def hard_swish(operation: Operation, machine: Machine) -> Kernel:
    """The function with constants for each channel; none of its sums has a product for an operand."""
    isa, operator = machine.isa, operation.operator
    if not isinstance(operator, QHardSwish):
        raise TypeError(f"Expected qnn.hard_swish, got {operator}")
    channels, size = operation.output.shape[-1], operation.output.size
    rows, run = size // channels, Run.of(channels, isa.saturate_vectors * isa.lanes)
    per_task = -(-rows // MAX_TASKS)
    tasks = -(-rows // per_task)

    def applied(x: Any, limit: Any, multiplier: Any) -> Any:
        lanes = lanes_of(x)
        value = T.cast(centred(x, operator.input_zero_point), vector_type("float32", lanes))
        negative = splat(T.float32(0), lanes) - limit
        limited = T.Select(value > limit, limit, T.Select(value < negative, negative, value))
        return saturate(isa.rounded(value * (limited + limit) * multiplier), operator, isa)

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "uint8"))
        limit = T.arg("limit", T.buffer((channels,), "float32"))
        multiplier = T.arg("multiplier", T.buffer((channels,), "float32"))
        y = T.arg("y", T.buffer((size,), operation.output.dtype))
        with loop_for(size, tasks)(tasks) as task:
            first = task * per_task
            with T.serial(T.min(per_task, rows - first)) as r, T.serial(run.steps) as step:
                channel = run.start(0, step)
                start, constants = (first + r) * channels + channel, span(channel, run.width)
                T.buffer_store(
                    y,
                    applied(x[span(start, run.width)], limit[constants], multiplier[constants]),
                    [span(start, run.width)],
                )
    return Kernel(builder.get(), (0, operation.constants[1], operation.constants[2]))
