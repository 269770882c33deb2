"""`qnn.hard_swish`.

for row of channels, in parallel:
    for vector of channels:
        apply the function in float32, and requantize
"""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.hard_swish import hard_swished
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QHardSwish


def hard_swish(operation: Operation, machine: Machine) -> Kernel:
    """The function with constants for each channel."""
    isa, operator = machine.isa, operation.operator
    if not isinstance(operator, QHardSwish):
        raise TypeError(f"Expected qnn.hard_swish, got {operator}")
    channels, size = operation.output.shape[-1], operation.output.size
    rows, run = size // channels, Run.of(channels, isa.saturate_vectors * isa.lanes)
    per_task = -(-rows // MAX_TASKS)
    tasks = -(-rows // per_task)

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "float32"))
        factor = T.arg("factor", T.buffer((channels,), "float32"))
        y = T.arg("y", T.buffer((size,), operation.output.dtype))
        with loop_for(size, tasks)(tasks) as task:
            first = task * per_task
            with T.serial(T.min(per_task, rows - first)) as r, T.serial(run.steps) as step:
                channel = run.start(0, step)
                at, constants = span((first + r) * channels + channel, run.width), span(channel, run.width)
                values = hard_swished(x[at], factor[constants], operator, isa)
                T.buffer_store(y, saturate(values, operator, isa), [at])
    return Kernel(builder.get(), (0, operation.constants[1]))
