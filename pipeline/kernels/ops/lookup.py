"""`qnn.lookup`: a table of 256 values in memory, or in vectors where an instruction set looks bytes up in them.

`qnn.interpolate`: two neighbouring entries of a table in memory for each value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import joined, span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import QInterpolate

UNROLLED_LOADS = 16
"""How many elements a step looks up, if each needs a load of its own."""

MIN_VECTORS = 256
"""For tensors with fewer elements, loading the table into vectors takes more time than it saves."""


def is_long(operation: Operation) -> bool:
    """Return whether a table is of bytes, and a tensor so long that loading the table into vectors pays off."""
    return operation.output.dtype == "uint8" and operation.output.size >= MIN_VECTORS


def loaded(operation: Operation, machine: Machine) -> Kernel:
    """Load each element's result from a table in memory."""
    del machine
    run = Run.of(operation.output.size, UNROLLED_LOADS, MAX_TASKS)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        for i in range(run.width):
            T.buffer_store(y, table[T.cast(x[start + i], "int32")], [start + i])

    table = operation.constants[1]
    return Kernel(_loops(operation, run, table, step), (0, table))


def in_vectors(operation: Operation, machine: Machine) -> Kernel:
    """Look vectors of elements up in a table that is in vector registers."""
    isa = machine.isa
    run = Run.of(operation.output.size, 4 * isa.lanes, MAX_TASKS)
    table = isa.arrange_table(operation.constants[1])
    size = table.size // isa.table_vectors

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        vectors = [table[span(i * size, size)] for i in range(isa.table_vectors)]
        T.buffer_store(y, isa.lookup(x[span(start, run.width)], vectors), [span(start, run.width)])

    return Kernel(_loops(operation, run, table, step), (0, table))


def interpolated(operation: Operation, machine: Machine) -> Kernel:
    """Mix two entries of a table for each element: loaded one by one, mixed in vectors."""
    isa, operator, table = machine.isa, operation.operator, operation.constants[1]
    if not isinstance(operator, QInterpolate):
        raise TypeError(f"Expected qnn.interpolate, got {operator}")
    bits = 17 - (table.size - 1).bit_length()
    shift = bits + operator.FRACTION_BITS
    run = Run.of(operation.output.size, isa.lanes, MAX_TASKS)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        lanes = run.width

        def number(value: int) -> Any:
            return splat(T.int32(value), lanes)

        place = T.cast(x[span(start, lanes)], vector_type("int32", lanes)) + number(32768)
        first, everything = register_buffer(lanes, "int32"), span(0, lanes)
        T.buffer_store(first, T.shift_right(place, number(bits)), [everything])
        left, right = (joined([table[first[i] + neighbour] for i in range(lanes)]) for neighbour in (0, 1))
        fraction = T.bitwise_and(place, number((1 << bits) - 1))
        mixed = left * (number(1 << bits) - fraction) + right * fraction
        rounded = T.shift_right(mixed + number(1 << (shift - 1)), number(shift))
        T.buffer_store(y, saturate(rounded, operator, isa), [span(start, lanes)])

    return Kernel(_loops(operation, run, table, step), (0, table))


def _loops(
    operation: Operation, run: Run, table: npt.NDArray[Any], step: Callable[[Any, Any, Any, Any], None]
) -> tirx.PrimFunc:
    """Return the loops as a function of (x, table, y), all flat; `step` does `run.width` elements."""
    loop = loop_for(run.length, run.tasks)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((run.length,), operation.inputs[0].dtype))
        entries = T.arg("table", T.buffer((table.size,), str(table.dtype)))
        y = T.arg("y", T.buffer((run.length,), operation.output.dtype))
        with loop(run.tasks) as task, T.serial(run.steps) as s:
            step(x, entries, y, run.start(task, s))
    return builder.get()
