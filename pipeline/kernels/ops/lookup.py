"""`qnn.lookup`: a table of 256 values in memory, or in vectors where an instruction set looks bytes up in them.

`qnn.interpolate`: two neighbouring entries of a table in memory for each value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.narrowing import saturate
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
    """Mix two entries of a table for each element: loaded one by one, mixed in vectors.

    An entry is stored with its difference to the next, so that one load gets both.
    """
    isa, operator, table = machine.isa, operation.operator, operation.constants[1]
    if not isinstance(operator, QInterpolate):
        raise TypeError(f"Expected qnn.interpolate, got {operator}")
    bits = 17 - (table.size - 1).bit_length()
    shift = bits + operator.FRACTION_BITS
    run = Run.of(operation.output.size, isa.lanes, MAX_TASKS)
    pieces = np.stack([(table[:-1] << bits) + (1 << (shift - 1)), np.diff(table)], axis=1).astype("<i4").view("<i8")
    pieces = np.roll(pieces.reshape(-1), len(pieces) // 2)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        lanes = run.width

        def number(value: int) -> Any:
            return splat(T.int32(value), lanes)

        values = T.cast(x[span(start, lanes)], vector_type("int32", lanes))
        places = [place for first in range(0, lanes, 4) for place in _upper_bits(x, start + first, min(4, lanes), bits)]
        loaded = T.reinterpret(f"int32x{2 * lanes}", joined([table[place] for place in places]))
        begin, slope = (T.Shuffle([loaded], list(range(half, 2 * lanes, 2))) for half in (0, 1))
        mixed = begin + slope * T.bitwise_and(values, number((1 << bits) - 1))
        T.buffer_store(y, saturate(T.shift_right(mixed, number(shift)), operator, isa), [span(start, lanes)])

    return Kernel(_loops(operation, run, pieces, step), (0, pieces))


def _upper_bits(x: Any, start: Any, count: int, bits: int) -> list[Any]:
    """Return neighbouring values of 16 bits, taken as unsigned, without their lowest bits.

    They are loaded together, as a number: taking them out of a vector would need twice the instructions.
    """
    dtype = f"uint{16 * count}"
    together, mask = T.reinterpret(dtype, x[span(start, count)]), tirx.const((1 << (16 - bits)) - 1, dtype)
    shifted = (T.shift_right(together, tirx.const(16 * i + bits, dtype)) for i in range(count))
    return [T.cast(T.bitwise_and(value, mask), "int32") for value in shifted]


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
