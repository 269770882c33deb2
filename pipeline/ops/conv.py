"""Convolutions, and what the compiler fuses into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, cropped, pad_image, padded_type, window_positions, windows
from pipeline.ops.bases import Accumulated, Linear, WithHalo
from pipeline.ops.elementwise import Add, QAdd


@dataclass(frozen=True)
class Conv2d(Linear, WithHalo):
    """`nn.conv2d`: 2-D convolution, bias and clip, float32.

    `y[n,h,w,o] = clip(bias[o] + sum(x_padded[n, h*sh + i*dh, w*sw + j*dw, g*I + c] * weight[o,i,j,c]))`, with
    `g = o // (O / groups)`. `padding` is (top, left, bottom, right); padded pixels are 0.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.

    With a `halo` (top, left, bottom, right), which only the compiler sets, the result lies in a halo of
    `halo_value`, as if by `nn.pad`: [N,top+OH+bottom,left+OW+right,O].
    """

    name = "nn.conv2d"
    image_by_image = True

    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    clip_min: float | None = None
    clip_max: float | None = None
    halo: Sides = NO_SIDES
    halo_value: float = 0.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] float32, and its halo."""
        return padded_type(TensorType(self._shape(inputs[0], inputs[1]), "float32"), self.halo)

    def lower_bound(self, *bounds: float) -> float:
        """Return the lower limit, or the halo's value if that is less."""
        return self.bound_with_halo(super().lower_bound(*bounds))

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return how often each weight meets each pixel of the output: once."""
        batch, height, width, _ = self._shape(inputs[0], inputs[1])
        return batch * height * width * inputs[1].size

    def extensible(self, *inputs: TensorType) -> bool:
        """Return whether it isn't depthwise."""
        out, _, _, per_group = inputs[1].shape
        return not (self.groups > 1 and per_group == 1 and out == self.groups)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, summed in float64."""
        return self.surrounded(self._within_halo(*arguments))

    def _within_halo(self, x: Array, weight: Array, bias: Array) -> Array:
        return self.clip(self.sums(x, weight) + bias)

    def sums(self, x: Array, weight: Array) -> Array:
        """Return the sums of products [N,OH,OW,O], float64."""
        out, kernel_h, kernel_w, per_group = weight.shape
        seen = windows(pad_image(x, self.padding, 0), (kernel_h, kernel_w), self.strides, self.dilation)
        batch, out_h, out_w = seen.shape[:3]
        per_group_out = out // self.groups
        result = np.empty((batch, out_h, out_w, out), "float64")
        for g in range(self.groups):
            patch = seen[:, :, :, g * per_group : (g + 1) * per_group]
            rows = patch.transpose(0, 1, 2, 4, 5, 3).reshape(batch * out_h * out_w, -1).astype("float64")
            chosen = slice(g * per_group_out, (g + 1) * per_group_out)
            products = rows @ weight[chosen].reshape(per_group_out, -1).T.astype("float64")
            result[..., chosen] = products.reshape(batch, out_h, out_w, per_group_out)
        return result

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
    residual_halo: Sides = NO_SIDES

    @classmethod
    def of(cls, convolution: Conv2d, total: Add) -> Conv2dAdd:
        """Return the sum of a convolution and something else."""
        fields = {f.name: getattr(convolution, f.name) for f in dataclasses.fields(Conv2d)}
        return cls(**fields, sum_clip_min=total.clip_min, sum_clip_max=total.clip_max)

    @property
    def total(self) -> Add:
        """The sum alone."""
        return Add(self.sum_clip_min, self.sum_clip_max)

    def lower_bound(self, *bounds: float) -> float:
        """Return the bound of the sum."""
        return self.bound_with_halo(self.total.lower_bound(Linear.lower_bound(self), bounds[-1]))

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether what is added is an activation, too."""
        return super().splits_batch(inputs[:-1], constants)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum, of a convolution that is summed in float64."""
        *convolved, residual = arguments
        total = self.total.evaluate(self._within_halo(*convolved), cropped(residual, self.residual_halo))
        return self.surrounded(total)


@dataclass(frozen=True)
class Conv2dTranspose(Linear):
    """`nn.conv2d_transpose`: transposed 2-D convolution (deconvolution), bias and clip, float32.

    `y[n,p,q,o] = clip(bias[o] + sum(x[n, h, w, g*I + c] * weight[o,i,j,c]))` over all h, i with
    `h*sh + i*dh = p + top` and all w, j with `w*sw + j*dw = q + left`, where `g = o // (O / groups)`. `padding`, (top,
    left, bottom, right), is cut off the result; `output_padding`, (height, width), is added at its ends.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.
    """

    name = "nn.conv2d_transpose"
    image_by_image = True

    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
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

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return how often each weight meets each pixel of the input: once."""
        batch, height, width, _ = inputs[0].shape
        return batch * height * width * inputs[1].size

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, summed in float64."""
        x, weight, bias = arguments
        return self.clip(self.sums(x, weight) + bias)

    def sums(self, x: Array, weight: Array) -> Array:
        """Return the sums of products, float64: each pixel of x adds its kernel to the result."""
        batch, height, width, channels = x.shape
        out, kernel_h, kernel_w, inputs = weight.shape
        (stride_h, stride_w), (dilation_h, dilation_w), groups = self.strides, self.dilation, self.groups
        size_h = stride_h * (height - 1) + dilation_h * (kernel_h - 1) + 1 + self.output_padding[0]
        size_w = stride_w * (width - 1) + dilation_w * (kernel_w - 1) + 1 + self.output_padding[1]
        full = np.zeros((batch, size_h, size_w, out), "float64")
        grouped = x.reshape(batch, height, width, groups, channels // groups).astype("float64")
        kernels = weight.reshape(groups, out // groups, kernel_h, kernel_w, inputs).astype("float64")
        for i, j in np.ndindex(kernel_h, kernel_w):
            added = np.einsum("nhwgc,goc->nhwgo", grouped, kernels[:, :, i, j])
            rows = slice(i * dilation_h, i * dilation_h + stride_h * (height - 1) + 1, stride_h)
            columns = slice(j * dilation_w, j * dilation_w + stride_w * (width - 1) + 1, stride_w)
            full[:, rows, columns] += added.reshape(batch, height, width, out)
        return cropped(full, self.padding)


@dataclass(frozen=True)
class QConv2d(Accumulated, WithHalo):
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
    image_by_image = True

    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_dtype: str = "uint8"
    halo: Sides = NO_SIDES
    halo_value: int = 0

    @property
    def geometry(self) -> Conv2d:
        """The float convolution of the same sizes, without a halo."""
        return Conv2d(self.strides, self.padding, self.dilation, self.groups)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] in `output_dtype`, and its halo."""
        return padded_type(TensorType(self.geometry.infer(*inputs[:2]).shape, self.output_dtype), self.halo)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return what it is for the float convolution."""
        return self.geometry.multiply_adds(*inputs)

    def extensible(self, *inputs: TensorType) -> bool:
        """Return whether it isn't depthwise, and gives uint8."""
        return self.output_dtype == "uint8" and self.geometry.extensible(*inputs)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        return self.surrounded(self._within_halo(*arguments))

    def _within_halo(self, x: Array, weight: Array, bias: Array, multiplier: Array) -> Array:
        centred = x.astype("int32") - self.input_zero_point
        return self.finish(self.geometry.sums(centred, weight) + bias, multiplier)


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
    residual_halo: Sides = NO_SIDES

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

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether what is added is an activation, too."""
        return super().splits_batch(inputs[:-1], constants)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum."""
        *convolved, residual = arguments
        total = self.total.evaluate(self._within_halo(*convolved), cropped(residual, self.residual_halo))
        return self.surrounded(total)


@dataclass(frozen=True)
class QConv2dLookup(QConv2d):
    """`qnn.conv2d_lookup`: `qnn.lookup(qnn.conv2d(x, weight, bias, multiplier), table)`, and then its halo.

    The compiler makes it where tables are quick, so that the convolution's result needn't go through memory.
    """

    name = "qnn.conv2d_lookup"
    arguments = ("x", "weight", "bias", "multiplier", "table")

    def evaluate(self, *arguments: Array) -> Array:
        """Return what the table holds for the convolution's result."""
        *convolved, table = arguments
        return self.surrounded(table[self._within_halo(*convolved)])


@dataclass(frozen=True)
class QConv2dTranspose(Accumulated):
    """`qnn.conv2d_transpose`: integer transposed convolution, requantized to uint8 or dequantized to float32.

    `acc` is the sum of `nn.conv2d_transpose` over `(x - input_zero_point) * weight`, plus bias, in int32. What follows
    is as in `qnn.conv2d`.

    x: [N,H,W,C] uint8; weight: [O,KH,KW,C/groups] int8; bias: [O] int32; multiplier: [O] float32, at least 0;
    result: [N,OH,OW,O].
    """

    name = "qnn.conv2d_transpose"
    arguments = ("x", "weight", "bias", "multiplier")
    image_by_image = True

    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    output_dtype: str = "uint8"

    @property
    def geometry(self) -> Conv2dTranspose:
        """The float operator of the same sizes."""
        return Conv2dTranspose(self.strides, self.padding, self.output_padding, self.dilation, self.groups)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,OH,OW,O] in `output_dtype`."""
        return TensorType(self.geometry.infer(*inputs).shape, self.output_dtype)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return what it is for the float operator."""
        return self.geometry.multiply_adds(*inputs)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        x, weight, bias, multiplier = arguments
        centred = x.astype("int32") - self.input_zero_point
        return self.finish(self.geometry.sums(centred, weight) + bias, multiplier)
