"""PickStridedPixels: the pixels that a strided 1x1 convolution reads are copied together first.

Before -> after: `qnn.conv2d(x, w, strides=s)` with a 1x1 kernel becomes `qnn.conv2d(p, w)` with
`p = nn.max_pool2d(x, 1x1, strides=s)`, whose windows of one pixel copy every s-th pixel. The convolution then reads
adjacent pixels across the lines of the image, which fill the registers of kernels that take several pixels at once.
Otherwise short lines would leave half of each register empty.
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite
from pipeline.kernels.isa import InstructionSet


def _rule(isa: InstructionSet) -> Rule:
    def check(match: Match) -> str | None:
        convolution = match.operator("convolution", ops.QConv2d)
        if tensor_type(match["weight"]).shape[1:3] != (1, 1) or convolution.groups > 1 or any(convolution.padding):
            return "it isn't a 1x1 convolution, or has groups or padding"
        if convolution.strides == (1, 1):
            return "it has no strides"
        fills = 2 * match.result_type.shape[2] > isa.pixels_together
        return "its lines fill the registers" if fills else None

    def rewrite_with_picked(match: Match) -> relax.Expr:
        convolution = match.operator("convolution", ops.QConv2d)
        picked = match.emit(make_call(ops.MaxPool2d(strides=convolution.strides), match["x"]), "picked")
        return make_call(dataclasses.replace(convolution, strides=(1, 1)), picked, *match.call("convolution").args[1:])

    pattern = call(ops.QConv2d, anything("x"), anything("weight"), name="convolution")
    return Rule("pick_strided_pixels", pattern, rewrite_with_picked, check)


def pick_strided_pixels(module: tvm.IRModule, isa: InstructionSet) -> tvm.IRModule:
    """Return the module with strided 1x1 convolutions on short lines replaced; see the module's docstring."""
    return rewrite(module, _rule(isa))
