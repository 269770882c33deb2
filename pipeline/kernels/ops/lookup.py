"""`qnn.lookup`: a table of 256 bytes in memory, or in registers where bytes of registers can be shuffled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import span, vector_type
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.ops import QLookup

Array = npt.NDArray[Any]

UNROLLED_LOADS = 16
"""Elements of one step where each is a load."""

MIN_SHUFFLED = 256
"""Shorter tensors aren't worth loading the table into registers."""

PSHUFB = {8: "llvm.x86.avx2.pshuf.b", 16: "llvm.x86.avx512.pshuf.b.512"}
"""LLVM's names of `vpshufb`, by int32 lanes of the vector. With 4 lanes it isn't faster than loads."""


def _is_long(operation: Operation) -> bool:
    return operation.output.size >= MIN_SHUFFLED


@kernel(QLookup, isa="portable")
def loaded(operation: Operation, isa: InstructionSet) -> Kernel:
    """One load from the table for each element."""
    del isa
    run = Run.of(operation.output.size, UNROLLED_LOADS, MAX_TASKS)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        for i in range(run.width):
            T.buffer_store(y, table[T.cast(x[start + i], "int32")], [start + i])

    table = operation.constants[1]
    return Kernel(_loops(run, table.size, step), (0, table))


@kernel(QLookup, isa="avx512_vbmi", variant="permute", accepts=_is_long)
def permuted(operation: Operation, isa: InstructionSet) -> Kernel:
    """The instruction set looks a vector up."""
    run = Run.of(operation.output.size, 4 * isa.lanes, MAX_TASKS)
    row = 256 // isa.table_vectors

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        rows = [table[span(first, row)] for first in range(0, 256, row)]
        T.buffer_store(y, isa.lookup(x[span(start, run.width)], rows), [span(start, run.width)])

    table = operation.constants[1]
    return Kernel(_loops(run, table.size, step), (0, table))


@kernel(QLookup, isa="avx2", variant="shuffle_rows", accepts=_is_long)
def shuffled_in_rows(operation: Operation, isa: InstructionSet) -> Kernel:
    """16 shuffles for each vector, one for each 16 entries of the table.

    `vpshufb` takes an index's low 4 bits, and gives 0 for a negative one. Subtracting 16 for each row, with saturation,
    leaves indices negative once they are, so rows 0 to x // 16 answer, all with entry x % 16. Rows are stored as the
    difference (exclusive or) from the row before, so that what they answer adds up to the last one's entry. Bytes are
    signed here, so the table's halves are done separately, the upper one with the sign flipped.
    """
    run = Run.of(operation.output.size, 4 * isa.lanes, MAX_TASKS)
    octets, signed = vector_type("uint8", run.width), vector_type("int8", run.width)

    def next_row(index: Any) -> Any:
        sixteen = T.broadcast(T.int8(16), run.width)
        left = T.call_llvm_pure_intrin(signed, f"llvm.ssub.sat.v{run.width}i8", T.reinterpret(signed, index), sixteen)
        return T.reinterpret(octets, left)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        code = x[span(start, run.width)]
        entries = []
        for half, first in enumerate((code, T.bitwise_xor(code, T.broadcast(T.uint8(128), run.width)))):
            index = first
            for row in range(8 * half, 8 * half + 8):
                entry = table[span(row * run.width, run.width)]
                entries.append(T.call_llvm_pure_intrin(octets, PSHUFB[isa.lanes], entry, index))
                index = next_row(index)
        T.buffer_store(y, functools.reduce(T.bitwise_xor, entries), [span(start, run.width)])

    table = row_differences(operation.constants[1], copies=isa.lanes // 4)
    return Kernel(_loops(run, table.size, step), (0, table))


@kernel(QLookup, isa="neon", variant="shuffle_quarters", accepts=_is_long)
def shuffled_in_quarters(operation: Operation, isa: InstructionSet) -> Kernel:
    """Four shuffles for each vector: each takes 64 entries, and `tbx` leaves bytes of other indices as they are."""
    del isa
    run = Run.of(operation.output.size, 16, MAX_TASKS)

    def step(x: Any, table: Any, y: Any, start: Any) -> None:
        code = x[span(start, run.width)]
        result: Any = None
        for quarter in range(4):
            entries = [table[span(64 * quarter + 16 * i, 16)] for i in range(4)]
            index = code - T.broadcast(T.uint8(64 * quarter), run.width)
            operands = [*entries, index] if result is None else [result, *entries, index]
            name = "tbl4" if result is None else "tbx4"
            result = T.call_llvm_pure_intrin("uint8x16", f"llvm.aarch64.neon.{name}.v16i8", *operands)
        T.buffer_store(y, result, [span(start, run.width)])

    table = operation.constants[1]
    return Kernel(_loops(run, table.size, step), (0, table))


def row_differences(table: Array, copies: int) -> Array:
    """Return the 16 rows of a table, each but the first of either half xor the one before, and each `copies` times."""
    rows = table.reshape(2, 8, 16)
    rows = np.concatenate([rows[:, :1], rows[:, 1:] ^ rows[:, :-1]], axis=1)
    return np.tile(rows, (1, 1, copies)).reshape(-1)


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
