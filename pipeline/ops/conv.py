"""Convolutions, and what the compiler fuses into them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from pipeline.ir.operator import Operator, Requantized
from pipeline.ir.types import TensorType
from pipeline.ops.elementwise import Add, QAdd
from pipeline.ops.movement import Pad
from pipeline.ops.pooling import window_positions


@dataclass(frozen=True)
class Conv2d(Operator):
    """`nn.conv2d`: 2-D convolution, bias and clip, float32.

    `y[n,h,w,o] = clip(bias[o] + sum(x_padded[n, h*sh + i*dh, w*sw + j*dw, g*I + c] * weight[o,i,j,c]))`, with
    `g = o // (O / groups)`. `padding` is (top, left, bottom, right); padded pixels are 0.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.

    With a `halo` (top, left, bottom, right), which only the compiler sets, the result lies in a halo of
    `halo_value`, as if by `nn.pad`: [N,top+OH+bottom,left+OW+right,O].
    """

    name = "nn.conv2d"
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clip_min: float | None = None
    clip_max: float | None = None
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    halo_value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] float32, and its halo."""
        return Pad(self.halo).infer(TensorType(self._shape(inputs[0], inputs[1]), "float32"))

    def with_halo(self, pad: Pad) -> Conv2d:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, halo=pad.padding, halo_value=pad.value)

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
    """`nn.conv2d_add`: `nn.add(nn.conv2d(x, weight, bias), residual)`, and then its halo.

    The compiler makes it, so that the convolution's result needn't go through memory. `sum_clip_min` and
    `sum_clip_max` are those of the sum. What is added may lie in a halo of its own, `residual_halo`.
    """

    name = "nn.conv2d_add"
    arguments = ("x", "weight", "bias", "residual")

    sum_clip_min: float | None = None
    sum_clip_max: float | None = None
    residual_halo: tuple[int, int, int, int] = (0, 0, 0, 0)

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
class Conv2dTranspose(Operator):
    """`nn.conv2d_transpose`: transposed 2-D convolution (deconvolution), bias and clip, float32.

    `y[n,p,q,o] = clip(bias[o] + sum(x[n, h, w, g*I + c] * weight[o,i,j,c]))` over all h, i with
    `h*sh + i*dh = p + top` and all w, j with `w*sw + j*dw = q + left`, where `g = o // (O / groups)`. `padding`, (top,
    left, bottom, right), is cut off the result; `output_padding`, (height, width), is added at its ends.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.
    """

    name = "nn.conv2d_transpose"
    arguments = ("x", "weight", "bias")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] float32."""
        batch, *sizes, channels = inputs[0].shape
        out, *kernel, per_group = inputs[1].shape
        if per_group * self.groups != channels or out % self.groups:
            raise ValueError(f"weight {inputs[1].shape} doesn't fit input {inputs[0].shape} with {self.groups} groups")
        height, width = (
            self.strides[i] * (sizes[i] - 1)
            + self.dilation[i] * (kernel[i] - 1)
            + 1
            + self.output_padding[i]
            - self.padding[i]
            - self.padding[i + 2]
            for i in range(2)
        )
        return TensorType((batch, height, width, out), "float32")


@dataclass(frozen=True)
class QConv2d(Requantized):
    """`qnn.conv2d`: integer convolution, requantized to uint8 or dequantized to float32.

    `acc[n,h,w,o] = bias[o] + sum((x_padded - input_zero_point) * weight[o])` in int32, where padded pixels are
    `input_zero_point`. With `output_dtype` "uint8": `q = int32(rint(float32(acc) * multiplier[o]))`, then as
    `Requantized`. With "float32": `y = float32(acc) * multiplier[o]`, and the output fields are not used.

    x: [N,H,W,C] uint8; weight: [O,KH,KW,C/groups] int8; bias: [O] int32; multiplier: [O] float32, at least 0;
    result: [N,OH,OW,O]. `realize` guarantees that acc and `acc * multiplier` fit int32 for every possible x.

    With a `halo` (top, left, bottom, right), which only the compiler sets, the uint8 result lies in a halo of
    `halo_value`, as if by `nn.pad`: [N,top+OH+bottom,left+OW+right,O].
    """

    name = "qnn.conv2d"
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias", "multiplier")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_dtype: str = "uint8"
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    halo_value: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] in `output_dtype`, and its halo."""
        geometry = Conv2d(self.strides, self.padding, self.dilation, self.groups)
        image = TensorType(geometry.infer(*inputs[:2]).shape, self.output_dtype)
        return Pad(self.halo).infer(image)

    def with_halo(self, pad: Pad) -> QConv2d:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, halo=pad.padding, halo_value=int(pad.value))


@dataclass(frozen=True)
class QConv2dAdd(QConv2d):
    """`qnn.conv2d_add`: `qnn.add(qnn.conv2d(x, weight, bias, multiplier), residual)`, exactly, and then its halo.

    The compiler makes it, so that the convolution's result needn't go through memory. The first attributes are those
    of the convolution; the rest are those of the sum, whose first operand the convolution is. What is added may lie in
    a halo of its own, `residual_halo`.
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
    residual_halo: tuple[int, int, int, int] = (0, 0, 0, 0)

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
    """`qnn.conv2d_lookup`: `qnn.lookup(qnn.conv2d(x, weight, bias, multiplier), table)`, and then its halo.

    The compiler makes it where tables are quick, so that the convolution's result needn't go through memory.
    """

    name = "qnn.conv2d_lookup"
    arguments = ("x", "weight", "bias", "multiplier", "table")


@dataclass(frozen=True)
class QConv2dTranspose(Requantized):
    """`qnn.conv2d_transpose`: integer transposed convolution, requantized to uint8 or dequantized to float32.

    `acc` is the sum of `nn.conv2d_transpose` over `(x - input_zero_point) * weight`, plus bias, in int32. What follows
    is as in `qnn.conv2d`.

    x: [N,H,W,C] uint8; weight: [O,KH,KW,C/groups] int8; bias: [O] int32; multiplier: [O] float32, at least 0;
    result: [N,OH,OW,O].
    """

    name = "qnn.conv2d_transpose"
    arguments = ("x", "weight", "bias", "multiplier")

    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_dtype: str = "uint8"

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] in `output_dtype`."""
        geometry = Conv2dTranspose(self.strides, self.padding, self.output_padding, self.dilation, self.groups)
        return TensorType(geometry.infer(*inputs).shape, self.output_dtype)
