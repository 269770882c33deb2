"""`qnn.quantize_image`: planes of float32 become pixels of uint8, within their padding, in one pass.

for row of the framed image, in parallel:
fill what belongs to the frame
for vector of pixels:                                      quantize that many of each channel's plane
for OCTETS pixels of them:                             interleave their channels, store
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.dialect.attributes import QuantizeImage
from pipeline.kernels.frame import Frame
from pipeline.kernels.isa import InstructionSet
from pipeline.kernels.loops import Run, loop_for
from pipeline.kernels.operation import Kernel, Operation
from pipeline.kernels.quantize import quantized
from pipeline.kernels.registry import kernel
from pipeline.kernels.vectors import part, span

OCTETS = 16
"""Bytes that are interleaved together: what one byte shuffle of every CPU takes."""


@kernel(QuantizeImage, isa="portable")
def quantize_image(operation: Operation, isa: InstructionSet) -> Kernel:
    """x: [N,C,H,W] float32 -> [N,H,W,C] uint8 in a frame."""
    attrs, source, target = operation.attrs, operation.inputs[0], operation.output
    if not isinstance(attrs, QuantizeImage):
        raise TypeError(f"Expected qnn.quantize_image, got {attrs}")
    batch, channels, height, width = source.shape
    frame, run = Frame(height, width, channels, *attrs.frame), Run.of(width, 4 * isa.lanes)
    with IRBuilder() as builder, T.prim_func():
        T.func_attr({"tirx.noalias": True, "op_pattern": 8})
        x = T.arg("x", T.buffer((source.size,), "float32"))
        y = T.arg("y", T.buffer((target.size,), "uint8"))
        rows = batch * frame.framed_height
        with loop_for(target.size, rows)(rows) as r:
            frame.fill(y, r, tirx.const(attrs.frame_value, "uint8"), 4 * isa.lanes)
            image, row = r // frame.framed_height, r % frame.framed_height - frame.top
            with T.If(T.And(row >= 0, row < height)), T.Then(), T.serial(run.steps) as step:
                column = run.start(0, step)
                planes = [((image * channels + c) * height + row) * width + column for c in range(channels)]
                codes = [quantized(x[span(plane, run.width)], attrs, isa) for plane in planes]
                octets = 4 * isa.lanes if isa.table_vectors else OCTETS
                _store_pixels(y, frame.start(image, row) + column * channels, codes, run.width, octets)
    return Kernel(builder.get(), (0,))


def _store_pixels(y: Any, start: Any, codes: list[Any], pixels: int, octets: int) -> None:
    """Store vectors of `pixels` codes, one for each channel, pixel by pixel; `octets` bytes are shuffled at once."""
    channels, length = len(codes), min(pixels, octets)
    if length == 1:
        for c, code in enumerate(codes):
            T.buffer_store(y, code, [start + c])
        return
    for first in range(0, pixels, length):
        parts = [part(code, first, length) for code in codes]
        for number in range(channels):
            values = [divmod(value, channels) for value in range(number * length, (number + 1) * length)]
            # One channel after another joins the result: of more than two vectors, LLVM takes single bytes.
            result = T.Shuffle([parts[0]], [pixel for pixel, _ in values])
            for c in range(1, channels):
                order = [length + pixel if channel == c else i for i, (pixel, channel) in enumerate(values)]
                result = T.Shuffle([result, parts[c]], order)
            T.buffer_store(y, result, [span(start + first * channels + number * length, length)])
