"""Loops that measure the limits of a machine: multiply-adds with operands in registers, and bytes through its caches.

Each takes the number of tasks that run at once, so that it can be measured for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.x86.amx import MatrixInstructionSet
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.vectors import span

PEAK_ROUNDS = 50_000
"""How many times the loop of `peak_probe` updates its accumulators: so often that starting threads takes no time."""

PIXELS = 2
"""How many values of x are in use at once."""

OPERANDS = 64
"""How many steps' values of x there are, all in the L1 cache."""


@dataclass(frozen=True)
class PeakProbe:
    """A loop of multiply-adds whose operands are in registers, except for a few in the first-level cache.

    Attributes:
        func: of (x, weights, result, tasks): flat buffers, and an int32.
        buffers: (elements, dtype) of the buffers.
        multiply_adds: how many one task does.
    """

    func: tirx.PrimFunc
    buffers: tuple[tuple[int, str], ...]
    multiply_adds: int


def peak_probe(dtype: str, isa: InstructionSet) -> PeakProbe:
    """Return the loop for an instruction set's own multiply-add.

    Args:
        dtype: "int8" (`isa.dot`, or what is quicker: `isa.dot_bytes`, or `isa.multiply` of matrix registers) or
            "float32" (`isa.multiply_add`).
        isa: the instruction set.
    """
    if dtype == "int8" and isinstance(isa, MatrixInstructionSet):
        return _matrix_peak_probe(isa)
    accumulators, lanes = isa.registers // 2, isa.lanes
    depth, x_dtype, w_dtype, acc_dtype, multiply_add = (
        (1, "float32", "float32", "float32", isa.multiply_add)
        if dtype == "float32"
        else (isa.dot_depth, "uint8", "int8", "int32", isa.dot_bytes)
        if isinstance(isa, PairwiseInstructionSet)
        else (isa.dot_depth, isa.activation_dtype, isa.weight_dtype, "int32", isa.dot)
    )
    size = accumulators * lanes
    buffers = ((OPERANDS * depth, x_dtype), (size * depth, w_dtype), (size, acc_dtype))
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        x, w, y = (T.arg(name, T.buffer((n,), kind)) for name, (n, kind) in zip("xwy", buffers, strict=True))
        tasks = T.arg("tasks", T.int32())
        with T.parallel(tasks):
            acc = register_buffer(size, acc_dtype)
            vectors = [span(i * lanes, lanes) for i in range(accumulators)]
            for at in vectors:
                T.buffer_store(acc, T.broadcast(tirx.const(0, acc_dtype), lanes), [at])
            with T.serial(PEAK_ROUNDS) as k:
                # Each product has other operands, as LLVM would compute equal products only once.
                for i, at in enumerate(vectors):
                    first = (k + i % PIXELS) % OPERANDS * depth
                    value = x[first] if depth == 1 else x[span(first, depth)]
                    weights = w[span(i // PIXELS * lanes * depth, lanes * depth)]
                    T.buffer_store(acc, multiply_add(acc[at], value, weights), [at])
            # All tasks store the same.
            for at in vectors:
                T.buffer_store(y, acc[at], [at])
    return PeakProbe(builder.get(), buffers, PEAK_ROUNDS * size * depth)


def _matrix_peak_probe(isa: MatrixInstructionSet) -> PeakProbe:
    """Return the loop for products of whole matrix registers."""
    size, sums = isa.matrix_rows * isa.matrix_row_bytes, isa.matrix_registers - 2
    x_register, w_register = sums, sums + 1
    buffers = ((size, "uint8"), (size, "int8"), (sums * size // 4, "int32"))
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        x, w, y = (T.arg(name, T.buffer((n,), kind)) for name, (n, kind) in zip("xwy", buffers, strict=True))
        tasks = T.arg("tasks", T.int32())
        with T.parallel(tasks):
            isa.configure([(isa.matrix_rows, isa.matrix_row_bytes)] * isa.matrix_registers)
            isa.load(x_register, x, 0, isa.matrix_row_bytes)
            isa.load(w_register, w, 0, isa.matrix_row_bytes)
            with T.serial(PEAK_ROUNDS // isa.matrix_rows):
                for register in range(sums):
                    isa.multiply(register, x_register, w_register)
            # All tasks store the same.
            for register in range(sums):
                isa.store(register, y, register * size // 4, isa.matrix_row_bytes)
            isa.release()
    per_product = isa.matrix_rows * isa.lanes * isa.matrix_row_bytes
    return PeakProbe(builder.get(), buffers, PEAK_ROUNDS // isa.matrix_rows * sums * per_product)


def copy_probe(isa: InstructionSet, size: int) -> tirx.PrimFunc:
    """Return a function of (x, y, vectors, rounds, tasks): each task copies `vectors` vectors, `rounds` times.

    It adds the round's number, so that LLVM neither calls `memcpy` nor drops a round. A task's vectors follow those of
    the task before.

    Args:
        isa: sets the length of a vector: `4 * isa.lanes` bytes.
        size: of each of the buffers, uint8.
    """
    width = 4 * isa.lanes
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        x, y = (T.arg(name, T.buffer((size,), "uint8")) for name in "xy")
        vectors, rounds, tasks = (T.arg(name, T.int32()) for name in ("vectors", "rounds", "tasks"))
        with T.parallel(tasks) as task, T.serial(rounds) as r, T.serial(vectors) as i:
            at = span((task * vectors + i) * width, width)
            T.buffer_store(y, x[at] + T.broadcast(T.cast(r, "uint8"), width), [at])
    return builder.get()
