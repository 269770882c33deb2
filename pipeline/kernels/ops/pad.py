"""`nn.pad`: rows of the halo are filled, rows of the image are copied between two fills."""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import Pad

VECTORS = 4
"""Vectors that are moved by one step."""


def pad(operation: Operation, machine: Machine) -> Kernel:
    """Copy x: [N,H,W,C] into the middle of y."""
    isa = machine.isa
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, Pad):
        raise TypeError(f"Expected nn.pad, got {attrs}")
    batch, height, width, channels = source.shape
    halo, lanes = Halo(height, width, channels, *attrs.padding), isa.lanes * VECTORS
    copy = Run.of(width * channels, lanes)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), source.dtype))
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        rows = batch * halo.padded_height
        with loop_for(target.size, rows)(rows) as r:
            halo.fill(y, r, attrs.value, lanes)
            inside = r % halo.padded_height - halo.top
            with T.If(T.And(inside >= 0, inside < height)), T.Then(), T.serial(copy.steps) as step:
                image, offset = r // halo.padded_height, copy.start(0, step)
                pixels = x[span((image * height + inside) * width * channels + offset, copy.width)]
                T.buffer_store(y, pixels, [span(halo.start(image, inside) + offset, copy.width)])
    return Kernel(builder.get(), (0,))
