"""`nn.depth_to_space`: for each row of a block, a pixel's channels are some neighbouring pixels of the output."""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.dialect.attributes import DepthToSpace
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.loops import Run, loop_for
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.kernels.vectors import span


@kernel(DepthToSpace, isa="portable")
def depth_to_space(operation: Operation, isa: InstructionSet) -> Kernel:
    """Copy runs of (block's columns x channels) values."""
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, DepthToSpace):
        raise TypeError(f"Expected nn.depth_to_space, got {attrs}")
    batch, height, width, depth = source.shape
    rows = attrs.block[0]
    length = depth // rows
    run = Run.of(length, isa.lanes * (4 if source.dtype == "uint8" else 1))
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        lines = batch * height * rows
        with (
            loop_for(target.size, lines)(lines) as line,
            T.serial(width) as column,
            T.serial(run.steps) as step,
        ):
            offset = run.start(0, step)
            start = ((line // rows) * width + column) * depth + line % rows * length + offset
            at = span((line * width + column) * length + offset, run.width)
            T.buffer_store(y, x[span(start, run.width)], [at])
    return Kernel(builder.get(), (0,))
