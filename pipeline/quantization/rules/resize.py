"""Resized images."""

from __future__ import annotations

from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call
from pipeline.ir.dataflow import Binding
from pipeline.quantization.rules.movement import move
from pipeline.quantization.rules.rule import Context, description, quantization_rule

NEAREST_MODES = ("asymmetric", "half_pixel")
"""Coordinate transformations for which nearest-neighbour resizing has an integer form."""


def _nearest(binding: Binding) -> str | None:
    attrs = binding.value.attrs
    if attrs["method"] != "nearest_neighbor" or attrs["coordinate_transformation_mode"] not in NEAREST_MODES:
        return "it interpolates between pixels"
    return None


@quantization_rule("relax.image.resize2d", kind="resize", check=_nearest, inputs_of_16_bits=1, output_of_16_bits=True)
def resize_nearest(binding: Binding, context: Context) -> relax.Expr:
    """`relax.image.resize2d` with nearest neighbours -> the same operator on quantized values."""
    return move(binding, context)


@quantization_rule(ops.ResizeBilinear, kind="resize", inputs_of_16_bits=1, output_of_16_bits=True)
def resize_bilinear(binding: Binding, context: Context) -> relax.Expr:
    """`nn.resize_bilinear` -> `qnn.resize_bilinear`; a weighted mean is never outside of its inputs' range."""
    operator = description(binding, ops.ResizeBilinear)
    quantized = ops.QResizeBilinear(operator.size, operator.starts, operator.steps)
    return make_call(quantized, context.quantized(binding.value.args[0]))
