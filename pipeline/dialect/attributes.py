"""The operators of the pipeline's dialect: their attributes, arguments and output types.

Two families. `nn.*` are float32 operators with bias and activation fused in, as the importer produces them. `qnn.*`
are their integer counterparts, as `realize` produces them. Everything else in a program is a stock Relax operator.
Activations are NHWC; convolution weights are OHWI.

One frozen dataclass describes one operator, without any compiler in it: Relax registration
(`dialect.operators`), the NumPy reference (`reference`) and the kernels (`kernels`) all read this description. The
class docstring *is* the operator's specification; the quantized ones are exact to the bit. In them `rint` rounds half
to even, products and roundings are float32, and no multiply may be contracted with a following add.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.dialect.base import Attributes, Requantized
from pipeline.dialect.padding import Pad
from pipeline.dialect.pooling import AvgPool2d, MaxPool2d, QAvgPool2d, window_positions
from pipeline.dialect.resizing import QResizeBilinear, ResizeBilinear
from pipeline.dialect.rows import LayerNorm, MatMul, QMatMul, QSoftmax, Softmax, SortOrder
from pipeline.dialect.types import TensorType, broadcast_shapes
from pipeline.dialect.upsampling import Conv2dTranspose, DepthToSpace, QConv2dTranspose, UpsampleConcat


@dataclass(frozen=True)
class Conv2d(Attributes):
    """`nn.conv2d`: 2-D convolution, bias and clip, float32.

    `y[n,h,w,o] = clip(bias[o] + sum(x_padded[n, h*sh + i*dh, w*sw + j*dw, g*I + c] * weight[o,i,j,c]))`, with
    `g = o // (O / groups)`. `padding` is (top, left, bottom, right); padded pixels are 0.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.

    With a `frame` (top, left, bottom, right), which only the compiler sets, the result lies in a frame of
    `frame_value`, as if by `nn.pad`: [N,top+OH+bottom,left+OW+right,O].
    """

    name = "nn.conv2d"
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clip_min: float | None = None
    clip_max: float | None = None
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    frame_value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] float32, and its frame."""
        return Pad(self.frame).infer(TensorType(self._shape(inputs[0], inputs[1]), "float32"))

    def framed(self, pad: Pad) -> Conv2d:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, frame=pad.padding, frame_value=pad.value)

    def _shape(self, x: TensorType, weight: TensorType) -> tuple[int, ...]:
        batch, height, width, channels = x.shape
        out, kernel_h, kernel_w, per_group = weight.shape
        if per_group * self.groups != channels or out % self.groups:
            raise ValueError(f"weight {weight.shape} doesn't fit input {x.shape} with {self.groups} groups")
        top, left, bottom, right = self.padding
        out_h = window_positions(height, top, bottom, kernel_h, self.dilation[0], self.strides[0])
        out_w = window_positions(width, left, right, kernel_w, self.dilation[1], self.strides[1])
        return (batch, out_h, out_w, out)


@dataclass(frozen=True)
class Conv2dAdd(Conv2d):
    """`nn.conv2d_add`: `nn.add(nn.conv2d(x, weight, bias), residual)`, and then its frame.

    The compiler makes it, so that the convolution's result needn't go through memory. `sum_clip_min` and
    `sum_clip_max` are those of the sum. What is added may lie in a frame of its own, `residual_frame`.
    """

    name = "nn.conv2d_add"
    arguments = ("x", "weight", "bias", "residual")

    sum_clip_min: float | None = None
    sum_clip_max: float | None = None
    residual_frame: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, convolution: Conv2d, total: Add) -> Conv2dAdd:
        """Return the sum of a convolution and something else."""
        fields = {f.name: getattr(convolution, f.name) for f in dataclasses.fields(Conv2d)}
        return cls(**fields, sum_clip_min=total.clip_min, sum_clip_max=total.clip_max)

    @property
    def total(self) -> Add:
        """The sum alone."""
        return Add(self.sum_clip_min, self.sum_clip_max)


@dataclass(frozen=True)
class Dense(Attributes):
    """`nn.dense`: `y = clip(x @ weight.T + bias)`, float32. x: [...,K]; weight: [O,K]; bias: [O]; result: [...,O]."""

    name = "nn.dense"
    arguments = ("x", "weight", "bias")

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [...,O] float32."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), "float32")


@dataclass(frozen=True)
class Add(Attributes):
    """`nn.add`: `y = clip(a + b)`, float32, broadcasting as NumPy does."""

    name = "nn.add"
    arguments = ("a", "b")

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")


@dataclass(frozen=True)
class Multiply(Attributes):
    """`nn.multiply`: `y = a * b`, float32, broadcasting as NumPy does. The compiler makes it from `relax.multiply`."""

    name = "nn.multiply"
    arguments = ("a", "b")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")


@dataclass(frozen=True)
class Stack(Attributes):
    """`nn.stack`: a batch of `count` tensors of one each, float32 or uint8; only the compiler makes it.

    x_i: [1,...]; result: [count,...], same dtype.
    """

    name = "nn.stack"
    arguments = ("x",)

    count: int = 1

    @property
    def arity(self) -> int:
        """Number of tensors."""
        return self.count

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the batch's type, same dtype."""
        return TensorType((self.count, *inputs[0].shape[1:]), inputs[0].dtype)


@dataclass(frozen=True)
class Unary(Attributes):
    """`nn.unary`: one function of one value, float32, any shape. `expression`: JSON, see `dialect.pointwise`."""

    name = "nn.unary"
    arguments = ("x",)

    expression: str = '"x"'

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class QConv2d(Requantized):
    """`qnn.conv2d`: integer convolution, requantized to uint8 or dequantized to float32.

    `acc[n,h,w,o] = bias[o] + sum((x_padded - input_zero_point) * weight[o])` in int32, where padded pixels are
    `input_zero_point`. With `output_dtype` "uint8": `q = int32(rint(float32(acc) * multiplier[o]))`, then as
    `Requantized`. With "float32": `y = float32(acc) * multiplier[o]`, and the output fields are not used.

    x: [N,H,W,C] uint8; weight: [O,KH,KW,C/groups] int8; bias: [O] int32; multiplier: [O] float32, at least 0;
    result: [N,OH,OW,O]. `realize` guarantees that acc and `acc * multiplier` fit int32 for every possible x.

    With a `frame` (top, left, bottom, right), which only the compiler sets, the uint8 result lies in a frame of
    `frame_value`, as if by `nn.pad`: [N,top+OH+bottom,left+OW+right,O].
    """

    name = "qnn.conv2d"
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias", "multiplier")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_dtype: str = "uint8"
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    frame_value: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] in `output_dtype`, and its frame."""
        geometry = Conv2d(self.strides, self.padding, self.dilation, self.groups)
        image = TensorType(geometry.infer(*inputs[:2]).shape, self.output_dtype)
        return Pad(self.frame).infer(image)

    def framed(self, pad: Pad) -> QConv2d:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, frame=pad.padding, frame_value=int(pad.value))


@dataclass(frozen=True)
class QConv2dAdd(QConv2d):
    """`qnn.conv2d_add`: `qnn.add(qnn.conv2d(x, weight, bias, multiplier), residual)`, exactly, and then its frame.

    The compiler makes it, so that the convolution's result needn't go through memory. The first attributes are those
    of the convolution; the rest are those of the sum, whose first operand the convolution is. What is added may lie in
    a frame of its own, `residual_frame`.
    """

    name = "qnn.conv2d_add"
    arguments = ("x", "weight", "bias", "multiplier", "residual")

    residual_zero_point: int = 0
    convolution_multiplier: int = 1
    residual_multiplier: int = 1
    shift: int = 1
    sum_zero_point: int = 0
    sum_min: int = 0
    sum_max: int = 255
    residual_frame: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, convolution: QConv2d, total: QAdd) -> QConv2dAdd:
        """Return the sum of a convolution and something else."""
        return cls(
            **{f.name: getattr(convolution, f.name) for f in dataclasses.fields(QConv2d)},
            residual_zero_point=total.b_zero_point,
            convolution_multiplier=total.a_multiplier,
            residual_multiplier=total.b_multiplier,
            shift=total.shift,
            sum_zero_point=total.output_zero_point,
            sum_min=total.output_min,
            sum_max=total.output_max,
        )

    @property
    def total(self) -> QAdd:
        """The sum alone."""
        return QAdd(
            self.sum_zero_point,
            self.sum_min,
            self.sum_max,
            a_zero_point=self.output_zero_point,
            b_zero_point=self.residual_zero_point,
            a_multiplier=self.convolution_multiplier,
            b_multiplier=self.residual_multiplier,
            shift=self.shift,
        )


@dataclass(frozen=True)
class QConv2dLookup(QConv2d):
    """`qnn.conv2d_lookup`: `qnn.lookup(qnn.conv2d(x, weight, bias, multiplier), table)`, and then its frame.

    The compiler makes it where tables are quick, so that the convolution's result needn't go through memory.
    """

    name = "qnn.conv2d_lookup"
    arguments = ("x", "weight", "bias", "multiplier", "table")


@dataclass(frozen=True)
class QDense(Requantized):
    """`qnn.dense`: as `qnn.conv2d` for a matrix product with constant weights.

    x: [...,K] uint8; weight: [O,K] int8; bias: [O] int32; multiplier: [O] float32; result: [...,O] uint8 or float32.
    """

    name = "qnn.dense"
    arguments = ("x", "weight", "bias", "multiplier")

    input_zero_point: int = 0
    output_dtype: str = "uint8"

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [...,O] in `output_dtype`."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), self.output_dtype)


@dataclass(frozen=True)
class QAdd(Requantized):
    """`qnn.add`: sum of two uint8 tensors of different scales, in integers only, broadcasting as NumPy does.

    `q = ((a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier + (1 << (shift - 1))) >> shift`, int32
    with an arithmetic shift; `realize` chooses multipliers that fit int16. 1 <= shift <= 30.
    """

    name = "qnn.add"
    arguments = ("a", "b")

    a_zero_point: int = 0
    b_zero_point: int = 0
    a_multiplier: int = 1
    b_multiplier: int = 1
    shift: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, uint8."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "uint8")

    def swapped(self) -> QAdd:
        """Return the operator that gives the same result for its operands in the other order."""
        return dataclasses.replace(
            self,
            a_zero_point=self.b_zero_point,
            b_zero_point=self.a_zero_point,
            a_multiplier=self.b_multiplier,
            b_multiplier=self.a_multiplier,
        )


@dataclass(frozen=True)
class QMultiply(Requantized):
    """`qnn.multiply`: product of two uint8 tensors, broadcasting as NumPy does.

    `q = int32(rint(float32((a - a_zero_point) * (b - b_zero_point)) * float32(multiplier)))`.
    """

    name = "qnn.multiply"
    arguments = ("a", "b")

    a_zero_point: int = 0
    b_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, uint8."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "uint8")


@dataclass(frozen=True)
class QLookup(Attributes):
    """`qnn.lookup`: `y = table[x]`. x: any shape, uint8; table: [256] uint8. Any function of one 8-bit value."""

    name = "qnn.lookup"
    arguments = ("x", "table")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class Quantize(Attributes):
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

    The compiler makes it, so that an image is read once. `frame` (top, left, bottom, right) is what `nn.pad` adds. Then
    the framed image z is unfolded along its height: a line holds `rows` rows of z, the next begins `row_step` below.
    `y[n,l,w,r*C+c] = z[n, l*row_step + r, w, c]`; with the defaults that is z itself.

    x: [N,C,H,W] float32; result: [N,(top+H+bottom-rows)//row_step+1,left+W+right,rows*C] uint8.
    """

    name = "qnn.quantize_image"

    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    frame_value: int = 0
    rows: int = 1
    row_step: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the unfolded image's type, channels last, uint8."""
        batch, channels, height, width = inputs[0].shape
        _, height, width, _ = Pad(self.frame).infer(TensorType((batch, height, width, channels), "uint8")).shape
        lines = window_positions(height, 0, 0, self.rows, 1, self.row_step)
        return TensorType((batch, lines, width, self.rows * channels), "uint8")

    def framed(self, pad: Pad) -> QuantizeImage:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, frame=pad.padding, frame_value=int(pad.value))


@dataclass(frozen=True)
class Dequantize(Attributes):
    """`qnn.dequantize`: uint8 -> float32, any shape. `y = float32(x - zero_point) * float32(scale)`."""

    name = "qnn.dequantize"
    arguments = ("x",)

    scale: float = 1.0
    zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, float32."""
        return TensorType(inputs[0].shape, "float32")


OPERATORS: Mapping[str, type[Attributes]] = {
    cls.name: cls
    for cls in (
        Conv2d,
        Conv2dAdd,
        Conv2dTranspose,
        DepthToSpace,
        UpsampleConcat,
        Dense,
        Add,
        Multiply,
        Pad,
        AvgPool2d,
        MaxPool2d,
        ResizeBilinear,
        Stack,
        Unary,
        Softmax,
        LayerNorm,
        MatMul,
        SortOrder,
        QConv2d,
        QConv2dTranspose,
        QConv2dAdd,
        QConv2dLookup,
        QDense,
        QMatMul,
        QSoftmax,
        QAdd,
        QMultiply,
        QAvgPool2d,
        QResizeBilinear,
        QLookup,
        Quantize,
        QuantizeImage,
        Dequantize,
    )
}
"""Every operator of the dialect, by name."""

__all__ = [
    "OPERATORS",
    "Add",
    "Attributes",
    "AvgPool2d",
    "Conv2d",
    "Conv2dAdd",
    "Conv2dTranspose",
    "Dense",
    "DepthToSpace",
    "Dequantize",
    "LayerNorm",
    "MatMul",
    "MaxPool2d",
    "Multiply",
    "Pad",
    "QAdd",
    "QAvgPool2d",
    "QConv2d",
    "QConv2dAdd",
    "QConv2dTranspose",
    "QDense",
    "QLookup",
    "QMatMul",
    "QMultiply",
    "QResizeBilinear",
    "QSoftmax",
    "Quantize",
    "QuantizeImage",
    "Requantized",
    "ResizeBilinear",
    "Softmax",
    "SortOrder",
    "Stack",
    "Unary",
    "UpsampleConcat",
]
