"""`nn.stack`: one tensor after another, each copied by all threads."""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation

VECTORS = 4
"""Vectors that are moved by one step."""


def stack(operation: Operation, machine: Machine) -> Kernel:
    """All tensors have one size, so each task copies the same place of each."""
    isa = machine.isa
    images, target = operation.inputs, operation.output
    run = Run.of(images[0].size, isa.lanes * VECTORS, MAX_TASKS)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        parts = [T.arg(f"x{i}", T.buffer((run.length,), x.dtype)) for i, x in enumerate(images)]
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        with loop_for(target.size, run.tasks)(run.tasks) as task:
            for i, part in enumerate(parts):
                with T.serial(run.steps) as step:
                    start = run.start(task, step)
                    T.buffer_store(y, part[span(start, run.width)], [span(i * run.length + start, run.width)])
    return Kernel(builder.get(), tuple(range(len(images))))
