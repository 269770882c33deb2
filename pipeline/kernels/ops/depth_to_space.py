"""`nn.depth_to_space`: each row of the result is put together from pieces of the rows that it comes from.

for row of the result, in parallel:
for piece:                                 all neighbours in the result that are neighbours in x
copy it, vector by vector; short ones value by value
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import DepthToSpace

VECTORS = 4
"""Vectors of 32-bit values that are moved by one step."""

MIN_VECTOR = 8
"""Shorter pieces are copied value by value, in a loop that LLVM makes vectors of."""


def depth_to_space(operation: Operation, machine: Machine) -> Kernel:
    """x: [N,H,W,C] -> [N,H*bh,W*bw,C/(bh*bw)], less what is cut off."""
    isa = machine.isa
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, DepthToSpace):
        raise TypeError(f"Expected nn.depth_to_space, got {attrs}")
    (block_h, block_w), groups, (top, left, _, _) = attrs.block, attrs.groups, attrs.crop
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
