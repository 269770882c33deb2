"""From float32 to 8 bits and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.ir.operator import Operator
from pipeline.ir.types import TensorType
from pipeline.ops.movement import Pad
from pipeline.ops.pooling import window_positions


@dataclass(frozen=True)
class Quantize(Operator):
    """`qnn.quantize`: float32 -> uint8, any shape.

    `y = uint8(int32(clamp(rint(x * inverse_scale), -zero_point, 255 - zero_point)) + zero_point)`, where clamp works in
    float32 as `t = v < hi ? v : hi; t > lo ? t : lo`, so infinities saturate and NaN becomes 255.
    `inverse_scale` is the float32 nearest to 1/scale.
    """

    name = "qnn.quantize"
    arguments = ("x",)

    inverse_scale: float = 1.0
    zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, uint8."""
        return TensorType(inputs[0].shape, "uint8")


@dataclass(frozen=True)
class QuantizeImage(Quantize):
    """`qnn.quantize_image`: `nn.pad(qnn.quantize(x with channels last))`, for images as most networks take them.

    The compiler makes it, so that an image is read once. `halo` (top, left, bottom, right) is what `nn.pad` adds. Then
    the padded image z is unfolded along its height: a line holds `rows` rows of z, the next begins `row_step` below.
    `y[n,l,w,r*C+c] = z[n, l*row_step + r, w, c]`; with the defaults that is z itself.

    x: [N,C,H,W] float32; result: [N,(top+H+bottom-rows)//row_step+1,left+W+right,rows*C] uint8.
    """

    name = "qnn.quantize_image"

    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    halo_value: int = 0
    rows: int = 1
    row_step: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the unfolded image's type, channels last, uint8."""
        batch, channels, height, width = inputs[0].shape
        _, height, width, _ = Pad(self.halo).infer(TensorType((batch, height, width, channels), "uint8")).shape
        lines = window_positions(height, 0, 0, self.rows, 1, self.row_step)
        return TensorType((batch, lines, width, self.rows * channels), "uint8")

    def with_halo(self, pad: Pad) -> QuantizeImage:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, halo=pad.padding, halo_value=int(pad.value))


@dataclass(frozen=True)
class Dequantize(Operator):
    """`qnn.dequantize`: uint8 -> float32, any shape. `y = float32(x - zero_point) * float32(scale)`."""

    name = "qnn.dequantize"
    arguments = ("x",)

    scale: float = 1.0
    zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, float32."""
        return TensorType(inputs[0].shape, "float32")
