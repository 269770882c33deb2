"""`nn.pad`: rows of the frame are filled, rows of the image are copied between two fills."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from pipeline.dialect.attributes import Pad
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.loops import Run, loop_for
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.registry import kernel
from pipeline.kernels.vectors import span, splat

VECTORS = 4
"""Vectors that are moved by one step."""


@kernel(Pad, isa="portable")
def pad(operation: Operation, isa: InstructionSet) -> Kernel:
    """Copy x: [N,H,W,C] into the middle of y."""
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, Pad):
        raise TypeError(f"Expected nn.pad, got {attrs}")
    _, height, width, channels = source.shape
    batch, out_h, out_w, _ = target.shape
    top, left, _, right = attrs.padding
    row, out_row = width * channels, out_w * channels
    lanes = isa.lanes * VECTORS
    copy, before, after, whole = (Run.of(max(n, 1), lanes) for n in (row, left * channels, right * channels, out_row))
    steps_before, steps_after = (r.steps if n else 0 for r, n in ((before, left), (after, right)))
    loop = loop_for(target.size, batch * out_h)

    def value(count: int) -> Any:
        number = T.uint8(int(attrs.value)) if source.dtype == "uint8" else T.float32(attrs.value)
        return splat(number, count)

    @T.prim_func
    def func(x: T.Buffer((source.size,), source.dtype), y: T.Buffer((target.size,), target.dtype)):
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        for r in loop(batch * out_h):
            if T.And(r % out_h >= top, r % out_h < top + height):
                for s in T.serial(steps_before):
                    y[span(r * out_row + before.start(0, s), before.width)] = value(before.width)
                for s in T.serial(copy.steps):
                    y[span(r * out_row + left * channels + copy.start(0, s), copy.width)] = x[
                        span((r // out_h * height + r % out_h - top) * row + copy.start(0, s), copy.width)
                    ]
                for s in T.serial(steps_after):
                    y[span(r * out_row + left * channels + row + after.start(0, s), after.width)] = value(after.width)
            else:
                for s in T.serial(whole.steps):
                    y[span(r * out_row + whole.start(0, s), whole.width)] = value(whole.width)

    return Kernel(func, (0,))
