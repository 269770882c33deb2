"""Images of another size."""

from __future__ import annotations

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import Binding
from pipeline.quantization.rules.movement import move
from pipeline.quantization.rules.rule import Context, description, quantization_rule

NEAREST_MODES = ("asymmetric", "half_pixel")
"""How a nearest-neighbour resize may find its pixels."""


def _nearest(binding: Binding) -> str | None:
    attrs = binding.value.attrs
    if attrs["method"] != "nearest_neighbor" or attrs["coordinate_transformation_mode"] not in NEAREST_MODES:
        return "it interpolates between pixels"
    return None


@quantization_rule("relax.image.resize2d", kind="resize", check=_nearest)
def resize_nearest(binding: Binding, context: Context) -> relax.Expr:
    """`relax.image.resize2d` to nearest neighbours -> itself on quantized values."""
    return move(binding, context)


@quantization_rule(ops.ResizeBilinear, kind="resize")
def resize_bilinear(binding: Binding, context: Context) -> relax.Expr:
    """`nn.resize_bilinear` -> `qnn.resize_bilinear`; no mean is outside of what it is made from."""
    operator = description(binding, ops.ResizeBilinear)
    quantized = ops.QResizeBilinear(operator.size, operator.starts, operator.steps)
    return make_call(quantized, context.quantized(binding.value.args[0]))
