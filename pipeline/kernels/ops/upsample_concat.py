"""`nn.upsample_concat`: each pixel is put together from one of each image, row by row.

for row of the padded result, in parallel:
halo
for pixel:
for image:                             unrolled: copy the channels of its pixel, in vectors
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.halo import Halo
from pipeline.kernels.lib.loops import Run, loop_for
from pipeline.kernels.lib.vectors import span
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.ops import UpsampleConcat

VECTORS = 4
"""Vectors that are moved by one step."""


def upsample_concat(operation: Operation, machine: Machine) -> Kernel:
    """A pixel's copies are few and short, so an image of one pixel a row is written as fast as memory takes it."""
    isa = machine.isa
    attrs, target, images = operation.attrs, operation.output, operation.inputs
    if not isinstance(attrs, UpsampleConcat):
        raise TypeError(f"Expected nn.upsample_concat, got {attrs}")
    batch, padded_h, padded_w, channels = target.shape
    top, left, bottom, right = attrs.halo
    height, width = padded_h - top - bottom, padded_w - left - right
    halo, most = Halo(height, width, channels, *attrs.halo), isa.lanes * VECTORS

    def copy(x: Any, y: Any, start: Any, to: Any, length: int) -> None:
        run = Run.of(length, most)
        with T.serial(run.steps) as step:
            offset = run.start(0, step)
            T.buffer_store(y, x[span(start + offset, run.width)], [span(to + offset, run.width)])

    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        parts = [T.arg(f"x{i}", T.buffer((x.size,), x.dtype)) for i, x in enumerate(images)]
        y = T.arg("y", T.buffer((target.size,), target.dtype))
        rows = batch * padded_h
        with loop_for(target.size, rows)(rows) as r:
            if not halo.empty:
                halo.fill(y, r, attrs.halo_value, most)
            image, inside = r // padded_h, r % padded_h - top
            with T.If(T.And(inside >= 0, inside < height)), T.Then(), T.serial(width) as column:
                to = halo.start(image, inside) + column * channels
                for part, (_, part_h, part_w, depth), (down, across) in zip(
                    parts, (x.shape for x in images), attrs.scales, strict=True
                ):
                    pixel = (image * part_h + inside // down) * part_w + column // across
                    copy(part, y, pixel * depth, to, depth)
                    to = to + depth
    return Kernel(builder.get(), tuple(range(len(images))))
