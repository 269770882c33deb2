"""`nn.softmax`, `nn.layer_norm` and `qnn.softmax`: a few passes over each row while it is in the first cache.

Float32:

    for row, in parallel:
        for pass: maximum and sum, or mean and variance; then the result
            for vector of the row

A row's last vector overlaps the one before; sums count only what is new in it.

8 bits, with exponentials from a table:

    for task of some rows, in parallel:
        for row:
            largest value                          in vectors
            exponential of each, and their sum     one load from the table each
            results                                in vectors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.narrowing import saturate
from pipeline.kernels.lib.buffers import folded, register_buffer
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vector_math import exp_of_negative
from pipeline.kernels.lib.vectors import span, splat, vector_type
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import LayerNorm, QSoftmax

VECTORS = 4
"""How many vectors are computed at the same time: while one waits for a result, the CPU works on the others."""


@dataclass(frozen=True)
class _Row:
    """The vectors of one row.

    Attributes:
        run: how the row is cut.
        first: offset of its first value.
    """

    run: Run
    first: Any

    def at(self, step: Any) -> Any:
        """Return the index of a vector in the buffer of all rows."""
        return span(self.first + self.run.start(0, step), self.run.width)

    def each(self, body: Callable[[Any, Callable[[Any, Any], Any]], None]) -> None:
        """Do something with each vector of the row.

        Args:
            body: gets the number of a vector, and a function that chooses from two values: the first in those lanes
                that no vector before has held, and the second in the others.
        """
        again = self.run.steps * self.run.width - self.run.length
        order = [i if i >= again else self.run.width + i for i in range(self.run.width)]
        with T.serial(self.run.steps - (again > 0)) as step:
            body(step, lambda value, _: value)
        if again > 0:
            body(self.run.steps - 1, lambda value, otherwise: T.Shuffle([value, otherwise], order))

    def reduce(self, start: float, combine: Callable[[Any, Any], Any], value: Callable[[Any], Any]) -> Any:
        """Return `value(step)` of all vectors, combined to one number.

        Args:
            start: result for no values at all.
            combine: associative and commutative.
            value: the vector of a step.
        """
        width = self.run.width
        acc, everything = register_buffer(width, "float32"), span(0, width)
        nothing = splat(T.float32(start), width)
        T.buffer_store(acc, nothing, [everything])

        def add(step: Any, fresh: Callable[[Any, Any], Any]) -> None:
            T.buffer_store(acc, combine(acc[everything], fresh(value(step), nothing)), [everything])

        self.each(add)
        total = register_buffer(1, "float32")
        T.buffer_store(total, folded(acc[everything], combine), [0])
        return total[0]


def softmax(operation: Operation, machine: Machine) -> Kernel:
    """Write the exponentials to the result, and then divide them there."""
    isa = machine.isa
    rows, run = _cut(operation, isa)
    size = operation.output.size
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "float32"))
        y = T.arg("y", T.buffer((size,), "float32"))
        with loop_for(size, rows)(rows) as r:
            row = _Row(run, r * run.length)
            largest = row.reduce(float("-inf"), T.max, lambda step: x[row.at(step)])

            def exponential(step: Any) -> Any:
                T.buffer_store(y, exp_of_negative(x[row.at(step)] - splat(largest, run.width)), [row.at(step)])
                return y[row.at(step)]

            total = row.reduce(0.0, lambda a, b: a + b, exponential)
            inverse = register_buffer(1, "float32")
            T.buffer_store(inverse, T.float32(1.0) / total, [0])

            def scale(step: Any, fresh: Callable[[Any, Any], Any]) -> None:
                value = y[row.at(step)]
                T.buffer_store(y, fresh(value * splat(inverse[0], run.width), value), [row.at(step)])

            row.each(scale)
    return Kernel(builder.get(), (0,))


def layer_norm(operation: Operation, machine: Machine) -> Kernel:
    """Compute mean and variance in two passes: a single pass would lose precision if the mean is large."""
    isa = machine.isa
    operator = operation.operator
    if not isinstance(operator, LayerNorm):
        raise TypeError(f"Expected nn.layer_norm, got {operator}")
    rows, run = _cut(operation, isa)
    size, count = operation.output.size, T.float32(run.length)

    def plus(a: Any, b: Any) -> Any:
        return a + b

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "float32"))
        gamma, beta = (T.arg(name, T.buffer((run.length,), "float32")) for name in ("gamma", "beta"))
        y = T.arg("y", T.buffer((size,), "float32"))
        with loop_for(size, rows)(rows) as r:
            row = _Row(run, r * run.length)
            mean = row.reduce(0.0, plus, lambda step: x[row.at(step)]) / count

            def centred(step: Any) -> Any:
                return x[row.at(step)] - splat(mean, run.width)

            variance = row.reduce(0.0, plus, lambda step: centred(step) * centred(step)) / count
            inverse = T.float32(1.0) / T.sqrt(variance + T.float32(operator.epsilon))
            with T.serial(run.steps) as step:
                at = span(run.start(0, step), run.width)
                normalized = centred(step) * splat(inverse, run.width)
                T.buffer_store(y, normalized * gamma[at] + beta[at], [row.at(step)])
    return Kernel(builder.get(), (0, 1, 2))


def qsoftmax(operation: Operation, machine: Machine) -> Kernel:
    """Store a row's exponentials until their sum is known."""
    isa = machine.isa
    operator, size = operation.operator, operation.output.size
    if not isinstance(operator, QSoftmax):
        raise TypeError(f"Expected qnn.softmax, got {operator}")
    length = operation.output.shape[-1]
    rows, run = size // length, Run.of(length, 4 * isa.lanes)
    per_task = -(-rows // MAX_TASKS)
    everything = span(0, run.width)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), "uint8"))
        table = T.arg("table", T.buffer((256,), "int32"))
        y = T.arg("y", T.buffer((size,), "uint8"))
        tasks = -(-rows // per_task)
        with loop_for(size, tasks)(tasks) as task:
            exponentials = T.alloc_buffer((length,), "int32")
            with T.serial(T.min(per_task, rows - task * per_task)) as r:
                start = (task * per_task + r) * length
                largest = register_buffer(run.width, "uint8")
                T.buffer_store(largest, splat(T.uint8(0), run.width), [everything])
                with T.serial(run.steps) as step:
                    values = x[span(start + run.start(0, step), run.width)]
                    T.buffer_store(largest, T.max(largest[everything], values), [everything])
                top, total = register_buffer(1, "int32"), register_buffer(1, "int32")
                T.buffer_store(top, T.cast(folded(largest[everything], T.max), "int32"), [0])
                T.buffer_store(total, T.int32(0), [0])
                with T.serial(length) as i:
                    T.buffer_store(exponentials, table[top[0] - T.cast(x[start + i], "int32")], [i])
                    T.buffer_store(total, total[0] + exponentials[i], [0])
                scale = register_buffer(1, "float32")
                T.buffer_store(scale, T.float32(operator.multiplier) / T.cast(total[0], "float32"), [0])
                with T.serial(run.steps) as step:
                    first = run.start(0, step)
                    values = T.cast(exponentials[span(first, run.width)], vector_type("float32", run.width))
                    result = saturate(isa.rounded(values * splat(scale[0], run.width)), operator, isa)
                    T.buffer_store(y, result, [span(start + first, run.width)])
    return Kernel(builder.get(), (0, 1))


def _cut(operation: Operation, isa: InstructionSet) -> tuple[int, Run]:
    """Return how many rows there are, and how each is cut into vectors."""
    length = operation.output.shape[-1]
    return operation.output.size // length, Run.of(length, isa.lanes * VECTORS)
