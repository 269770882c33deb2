"""FusePadding: padding by zeros becomes part of the convolutions that read the padded image.

Before -> after: `conv2d(nn.pad(x, p), padding=q)` becomes `conv2d(x, padding=p + q)`. Exporters write separate padding
where it isn't the same on all sides (PyTorch's `ZeroPad2d`, TensorFlow's "same").

Precondition: images are NHWC (after PropagateLayout).
"""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite


def _check(match: Match) -> str | None:
    value = match.operator("pad", ops.Pad).value
    return None if value == 0 else f"the image is padded with {value:g}, but a convolution pads with zeros"


def _rewrite(match: Match) -> relax.Expr:
    convolution, pad = match.operator("convolution", ops.Conv2d), match.operator("pad", ops.Pad)
    top, left, bottom, right = (a + b for a, b in zip(convolution.padding, pad.padding, strict=True))
    wider = dataclasses.replace(convolution, padding=(top, left, bottom, right))
    return make_call(wider, match["x"], *match.call("convolution").args[1:])


RULE = Rule(
    "fuse_padding", call(ops.Conv2d, call(ops.Pad, anything("x"), name="pad"), name="convolution"), _rewrite, _check
)


def fuse_padding(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with padding by zeros fused into convolutions; see the module's docstring."""
    return rewrite(module, RULE)
