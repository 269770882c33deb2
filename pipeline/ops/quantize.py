"""Quantization from float32, and dequantization."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import QUANTIZED_LIMITS, QuantizationParameters, TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, padded_type, scaled, signed, window_positions
from pipeline.ops.bases import WithHalo


@dataclass(frozen=True)
class Quantize(Operator):
    """`qnn.quantize`: float32 -> uint8 or int16, any shape.

    `y = output_dtype(int32(clamp(rint(x * inverse_scale), low - zero_point, high - zero_point)) + zero_point)`, where
    low and high are the limits of `output_dtype`, and clamp works in float32 as
    `t = v < hi ? v : hi; t > lo ? t : lo`, so infinities saturate and NaN becomes the largest value. `inverse_scale` is
    the float32 nearest to 1/scale.
    """

    name = "qnn.quantize"
    arguments = ("x",)
    elementwise = True

    inverse_scale: float = 1.0
    zero_point: int = 0
    output_dtype: str = field(default="uint8", kw_only=True)

    @classmethod
    def of(cls, parameters: QuantizationParameters) -> Quantize:
        """Return the operator that quantizes with these parameters."""
        return cls(float(np.float32(1.0 / parameters.scale)), parameters.zero_point, output_dtype=parameters.dtype)

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest result."""
        return QUANTIZED_LIMITS[self.output_dtype]

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, in `output_dtype`."""
        return TensorType(inputs[0].shape, self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the quantized values."""
        return self.quantized(arguments[0])

    def quantized(self, x: Array) -> Array:
        """Return x, float32 of any shape, quantized."""
        low, high = (np.float32(limit - self.zero_point) for limit in self.limits)
        v = np.rint(x.astype("float32") * np.float32(self.inverse_scale))
        v = np.where(v < high, v, high)
        v = np.where(v > low, v, low)
        return np.asarray((v.astype("int32") + self.zero_point).astype(self.output_dtype))


@dataclass(frozen=True)
class QuantizeImage(Quantize, WithHalo):
    """`qnn.quantize_image`: an NCHW image, quantized, with channels moved last, padded and unfolded in one pass.

    Let z be `nn.pad(qnn.quantize(permute_dims(x, [0, 2, 3, 1])), halo)`. The result is z unfolded along its height:
    line l of the result holds the `rows` rows of z that begin at row `l * row_step`, side by side as channels,
    `y[n,l,w,r*C+c] = z[n, l*row_step + r, w, c]`. With the defaults, that is z itself. Only the compiler makes the
    operator.

    x: [N,C,H,W] float32; result: [N,(top+H+bottom-rows)//row_step+1,left+W+right,rows*C] uint8, or with `output_dtype`
    "int8" the same stored minus 128.
    """

    name = "qnn.quantize_image"
    elementwise = False
    image_by_image = True

    halo: Sides = NO_SIDES
    halo_value: int = 0
    rows: int = 1
    row_step: int = 1

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest result, before it is stored."""
        return QUANTIZED_LIMITS["uint8"]

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type."""
        batch, channels, height, width = inputs[0].shape
        _, height, width, _ = padded_type(TensorType((batch, height, width, channels), "uint8"), self.halo).shape
        lines = window_positions(height, 0, 0, self.rows, 1, self.row_step)
        return TensorType((batch, lines, width, self.rows * channels), self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the unfolded image."""
        quantized = Quantize(self.inverse_scale, self.zero_point).quantized(arguments[0])
        padded = self.add_halo(quantized.transpose(0, 2, 3, 1))
        last = padded.shape[1] - self.rows
        below = [padded[:, r : last + r + 1 : self.row_step] for r in range(self.rows)]
        unfolded = np.concatenate(below, axis=3)
        return signed(unfolded) if self.output_dtype == "int8" else unfolded


@dataclass(frozen=True)
class Dequantize(Operator):
    """`qnn.dequantize`: uint8 or int16 -> float32, any shape. `y = float32(x - zero_point) * float32(scale)`."""

    name = "qnn.dequantize"
    arguments = ("x",)
    elementwise = True

    scale: float = 1.0
    zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, float32."""
        return TensorType(inputs[0].shape, "float32")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the float values."""
        return scaled(arguments[0].astype("int32") - self.zero_point, np.float32(self.scale))
