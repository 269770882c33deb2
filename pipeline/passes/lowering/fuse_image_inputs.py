"""FuseImageInputs: an input image is quantized and permuted to NHWC by one operator.

Before -> after: `y = qnn.quantize(permute_dims(x, [0, 2, 3, 1]))` becomes `y = qnn.quantize_image(x)`.
"""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite

MAX_PLANES = 4
"""Most channels of an image that the kernel interleaves by byte shuffles; images with more keep the permutation."""


def _moves_channels_last(permutation: relax.Call) -> bool:
    axes = permutation.attrs["axes"]
    return axes is not None and [int(a) for a in axes] == [0, 2, 3, 1]


def _check(match: Match) -> str | None:
    if match.operator("quantize", ops.Quantize).output_dtype != "uint8":
        return "it isn't quantized to 8 bits"
    channels = tensor_type(match["x"]).shape[1]
    return None if channels <= MAX_PLANES else f"{channels} channels are too many to interleave"


def _rewrite(match: Match) -> relax.Expr:
    quantize = match.operator("quantize", ops.Quantize)
    return make_call(ops.QuantizeImage(quantize.inverse_scale, quantize.zero_point), match["x"])


RULE = Rule(
    "fuse_image_input",
    call(
        ops.Quantize,
        call("relax.permute_dims", anything("x"), where=_moves_channels_last),
        name="quantize",
    ),
    _rewrite,
    _check,
)


def fuse_image_inputs(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with the quantization and permutation of images fused; see the module's docstring."""
    return rewrite(module, RULE)
