"""Operators that move values: padding, stacking, sorting, space for depth.

`nn.pad`: rows of the halo are filled, rows of the image are copied between two fills.

`nn.stack`: one tensor after another, each copied by all threads.

`nn.depth_to_space`: each row of the result is put together from pieces of the rows that it comes from.

    for row of the result, in parallel:
        for piece:                                 all neighbours in the result that are neighbours in x
            copy it, vector by vector; short ones value by value

`nn.sort_order`: merge sort of each row's indices.

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
from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.loops import MAX_TASKS, Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import DepthToSpace, Pad, SortOrder

VECTORS = 4
"""How many vectors of 32-bit values one step moves."""

MIN_VECTOR = 8
"""Pieces with fewer values are copied one by one, in a loop that LLVM vectorizes."""


def pad(operation: Operation, machine: Machine) -> Kernel:
    """Copy x: [N,H,W,C] into the middle of y."""
    isa = machine.isa
    operator, source, target = operation.operator, operation.inputs[0], operation.output
    if not isinstance(operator, Pad):
        raise TypeError(f"Expected nn.pad, got {operator}")
    batch, height, width, channels = source.shape
    halo, lanes = Halo(height, width, channels, *operator.padding), isa.lanes * VECTORS
    copy = Run.of(width * channels, lanes)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        rows = batch * halo.padded_height
        with loop_for(target.size, rows)(rows) as r:
            halo.fill(y, r, operator.value, lanes)
            inside = r % halo.padded_height - halo.top
            with T.If(T.And(inside >= 0, inside < height)), T.Then(), T.serial(copy.steps) as step:
                image, offset = r // halo.padded_height, copy.start(0, step)
                pixels = x[span((image * height + inside) * width * channels + offset, copy.width)]
                T.buffer_store(y, pixels, [span(halo.start(image, inside) + offset, copy.width)])
    return Kernel(builder.get(), (0,))


def stack(operation: Operation, machine: Machine) -> Kernel:
    """Copy tensors one after another. All have the same size, so each task copies the same part of every tensor."""
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


def depth_to_space(operation: Operation, machine: Machine) -> Kernel:
    """Rearrange x: [N,H,W,C] -> [N,H*bh,W*bw,C/(bh*bw)], without the pixels that are cropped."""
    isa = machine.isa
    operator, source, target = operation.operator, operation.inputs[0], operation.output
    if not isinstance(operator, DepthToSpace):
        raise TypeError(f"Expected nn.depth_to_space, got {operator}")
    (block_h, block_w), groups, (top, left, _, _) = operator.block, operator.groups, operator.crop
    batch, height, width, channels = source.shape
    _, out_h, out_w, _ = target.shape
    depth = channels // (block_h * block_w * groups)
    # A pixel's columns follow one another in both tensors if there is one group.
    whole = groups == 1 and left % block_w == 0 and out_w % block_w == 0
    pixels = block_w if whole else 1
    length = pixels * depth
    copy = Run.of(length, isa.lanes * VECTORS)

    def start(row: Any, piece: Any) -> Any:
        line, column, group = row % out_h + top, piece // groups * pixels + left, piece % groups
        pixel = (row // out_h * height + line // block_h) * width + column // block_w
        place = (group * block_h + line % block_h) * block_w + column % block_w
        return pixel * channels + place * depth

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        pieces = out_w // pixels * groups
        with loop_for(target.size, batch * out_h)(batch * out_h) as row, T.serial(pieces) as piece:
            to = (row * pieces + piece) * length
            if length < MIN_VECTOR:
                for i in range(length):
                    T.buffer_store(y, x[start(row, piece) + i], [to + i])
            else:
                with T.serial(copy.steps) as step:
                    offset = copy.start(0, step)
                    values = x[span(start(row, piece) + offset, copy.width)]
                    T.buffer_store(y, values, [span(to + offset, copy.width)])
    return Kernel(builder.get(), (0,))


def sort_order(operation: Operation, machine: Machine) -> Kernel:
    """Sort by merging runs. The left run's next value is taken unless the right one's comes before it: it is stable."""
    del machine
    operator, size = operation.operator, operation.inputs[0].size
    if not isinstance(operator, SortOrder):
        raise TypeError(f"Expected nn.sort_order, got {operator}")
    dtype, length = operation.inputs[0].dtype, operation.inputs[0].shape[-1]
    rows, lengths = size // length, [1 << i for i in range((length - 1).bit_length())]
    per_task = -(-rows // MAX_TASKS)
    tasks = -(-rows // per_task)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((size,), dtype))
        y = T.arg("y", T.buffer((rows * operator.count,), "int64"))
        with loop_for(size, tasks)(tasks) as task:
            order = T.alloc_buffer((2 * length,), "int32")
            with T.serial(T.min(per_task, rows - task * per_task)) as r:
                row = task * per_task + r

                def before(a: Any, b: Any, first: Any = row * length) -> Any:
                    larger, smaller = (a, b) if operator.descending else (b, a)
                    return _larger(x[first + larger], x[first + smaller], dtype)

                with T.serial(length) as i:
                    T.buffer_store(order, T.cast(i, "int32"), [i])
                for i, run in enumerate(lengths):
                    with T.serial(-(-length // (2 * run))) as pair:
                        _merge(order, i % 2 * length, (i + 1) % 2 * length, pair * 2 * run, run, length, before)
                with T.serial(operator.count) as i:
                    result = T.cast(order[len(lengths) % 2 * length + i], "int64")
                    T.buffer_store(y, result, [row * operator.count + i])
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
