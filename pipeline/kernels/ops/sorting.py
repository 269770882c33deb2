"""`nn.sort_order`: merge sort of each row's indices.

for task of some rows, in parallel:
for row:
for run length 1, 2, 4, ...:           each pair of runs is merged from one half of a buffer into the other
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.buffers import register_buffer
from pipeline.kernels.lib.loops import MAX_TASKS, loop_for
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import SortOrder


def sort_order(operation: Operation, machine: Machine) -> Kernel:
    """Of two runs' next values the left one goes first, unless the right one comes before it: so the sort is stable."""
    del machine
    attrs, size = operation.attrs, operation.inputs[0].size
    if not isinstance(attrs, SortOrder):
        raise TypeError(f"Expected nn.sort_order, got {attrs}")
    dtype, length = operation.inputs[0].dtype, operation.inputs[0].shape[-1]
    rows, lengths = size // length, [1 << i for i in range((length - 1).bit_length())]
    per_task = -(-rows // MAX_TASKS)
    tasks = -(-rows // per_task)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), dtype))
        y = T.arg("y", T.buffer((rows * attrs.count,), "int64"))
        with loop_for(size, tasks)(tasks) as task:
            order = T.alloc_buffer((2 * length,), "int32")
            with T.serial(T.min(per_task, rows - task * per_task)) as r:
                row = task * per_task + r

                def before(a: Any, b: Any, first: Any = row * length) -> Any:
                    larger, smaller = (a, b) if attrs.descending else (b, a)
                    return _larger(x[first + larger], x[first + smaller], dtype)

                with T.serial(length) as i:
                    T.buffer_store(order, T.cast(i, "int32"), [i])
                for i, run in enumerate(lengths):
                    with T.serial(-(-length // (2 * run))) as pair:
                        _merge(order, i % 2 * length, (i + 1) % 2 * length, pair * 2 * run, run, length, before)
                with T.serial(attrs.count) as i:
                    result = T.cast(order[len(lengths) % 2 * length + i], "int64")
                    T.buffer_store(y, result, [row * attrs.count + i])
    return Kernel(builder.get(), (0,))


def _merge(
    order: Any, source: int, target: int, start: Any, run: int, length: int, before: Callable[[Any, Any], Any]
) -> None:
    """Merge the runs that begin at `start` and `start + run` in one half of a buffer into the other half."""
    middle, end = T.min(start + run, length), T.min(start + 2 * run, length)
    left, right = register_buffer(1, "int32"), register_buffer(1, "int32")
    T.buffer_store(left, T.cast(start, "int32"), [0])
    T.buffer_store(right, T.cast(middle, "int32"), [0])
    with T.serial(end - start) as k:
        # A run that is used up has no next value; any of the buffer stands in for it, which isn't taken.
        ours, theirs = (order[source + T.min(side[0], length - 1)] for side in (left, right))
        takes_right = T.And(right[0] < end, T.Or(left[0] >= middle, before(theirs, ours)))
        taken = register_buffer(1, "int32")
        T.buffer_store(taken, T.Select(takes_right, 1, 0), [0])
        T.buffer_store(order, T.Select(taken[0] > 0, theirs, ours), [target + start + k])
        T.buffer_store(left, left[0] + 1 - taken[0], [0])
        T.buffer_store(right, right[0] + taken[0], [0])


def _larger(a: Any, b: Any, dtype: str) -> Any:
    """Return whether a is larger than b; NaN is larger than every number."""
    if not dtype.startswith("float"):
        return a > b
    return T.Or(a > b, T.And(T.isnan(a), T.Not(T.isnan(b))))
