"""`qnn.lookup`: a table of 256 bytes in memory, or in vectors where an instruction set looks bytes up in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation

UNROLLED_LOADS = 16
"""How many elements a step looks up, if each needs a load of its own."""

MIN_VECTORS = 256
"""For tensors with fewer elements, loading the table into vectors takes more time than it saves."""


def is_long(operation: Operation) -> bool:
    """Return whether a tensor is so long that loading the table into vectors pays off."""
    return operation.output.size >= MIN_VECTORS


def loaded(operation: Operation, machine: Machine) -> Kernel:
    """Load each element's result from a table in memory."""
    del machine
    run = Run.of(operation.output.size, UNROLLED_LOADS, MAX_TASKS)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        for i in range(run.width):
            T.buffer_store(y, table[T.cast(x[start + i], "int32")], [start + i])

    table = operation.constants[1]
    return Kernel(_loops(run, table.size, step), (0, table))


def in_vectors(operation: Operation, machine: Machine) -> Kernel:
    """Look vectors of elements up in a table that is in vector registers."""
    isa = machine.isa
    run = Run.of(operation.output.size, 4 * isa.lanes, MAX_TASKS)
    table = isa.arrange_table(operation.constants[1])
    size = table.size // isa.table_vectors

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        vectors = [table[span(i * size, size)] for i in range(isa.table_vectors)]
        T.buffer_store(y, isa.lookup(x[span(start, run.width)], vectors), [span(start, run.width)])

    return Kernel(_loops(run, table.size, step), (0, table))


def _loops(run: Run, table_size: int, step: Callable[[Any, Any, Any, Any], None]) -> tirx.PrimFunc:
    """Return the loops as a function of (x, table, y), all flat; `step` does `run.width` elements."""
    loop = loop_for(run.length, run.tasks)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((run.length,), "uint8"))
        table = T.arg("table", T.buffer((table_size,), "uint8"))
        y = T.arg("y", T.buffer((run.length,), "uint8"))
        with loop(run.tasks) as task, T.serial(run.steps) as s:
            step(x, table, y, run.start(task, s))
    return builder.get()
