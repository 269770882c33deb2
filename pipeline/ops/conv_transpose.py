"""Transposed convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides, cropped
from pipeline.ops.bases import Accumulated, Linear


@dataclass(frozen=True)
class Conv2dTranspose(Linear):
    """`nn.conv2d_transpose`: transposed 2-D convolution (deconvolution), bias and clip, float32.

    `y[n,p,q,o] = clip(bias[o] + sum(x[n, h, w, g*I + c] * weight[o,i,j,c]))` over all h, i with
    `h*sh + i*dh = p + top` and all w, j with `w*sw + j*dw = q + left`, where `g = o // (O / groups)`. `padding`, (top,
    left, bottom, right), is cut off the result; `output_padding` are rows and columns added at its bottom and right.

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
        """Return the result's type: [N,OH,OW,O] float32."""
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
        """Return one multiply-add for each weight and pixel of x."""
        batch, height, width, _ = inputs[0].shape
        return batch * height * width * inputs[1].size

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, computed in float64."""
        x, weight, bias = arguments
        return self.clip(self.sums(x, weight) + bias)

    def sums(self, x: Array, weight: Array) -> Array:
        """Return the sums of products, without bias: [N,OH,OW,O] float64. Each pixel of x adds a scaled kernel."""
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
class QConv2dTranspose(Accumulated):
    """`qnn.conv2d_transpose`: integer transposed convolution, requantized as `qnn.conv2d`.

    `acc` is the sum that `nn.conv2d_transpose` defines, over `(x - input_zero_point) * weight`, plus bias, in int32.

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

    @property
    def geometry(self) -> Conv2dTranspose:
        """The float operator with the same strides, padding, dilation and groups."""
        return Conv2dTranspose(self.strides, self.padding, self.output_padding, self.dilation, self.groups)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [N,OH,OW,O] in `output_dtype`."""
        return TensorType(self.geometry.infer(*inputs).shape, self.output_dtype)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return as many as the float operator has."""
        return self.geometry.multiply_adds(*inputs)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        x, weight, bias, multiplier = arguments
        centred = x.astype("int32") - self.input_zero_point
        return self.finish(self.geometry.sums(centred, weight) + bias, multiplier)
