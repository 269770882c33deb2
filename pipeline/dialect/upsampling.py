"""Operators whose result has more pixels than their input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.dialect.base import Attributes, Requantized
from pipeline.dialect.padding import Pad
from pipeline.dialect.types import TensorType


@dataclass(frozen=True)
class Conv2dTranspose(Attributes):
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


@dataclass(frozen=True)
class DepthToSpace(Attributes):
    """`nn.depth_to_space`: blocks of channels become blocks of pixels (sub-pixel shuffle), float32 or uint8.

    `y[n, h*bh + i - top, w*bw + j - left, g*D + d] = x[n, h, w, ((g*bh + i)*bw + j)*D + d]`, where (bh, bw) is `block`
    and D = C / (bh * bw * groups). `crop`, (top, left, bottom, right), is cut off the result.

    ONNX's DCR is one group, and its CRD as many groups as the result has channels.

    x: [N,H,W,C]; result: [N, H*bh - top - bottom, W*bw - left - right, C / (bh * bw)], same dtype.
    """

    name = "nn.depth_to_space"
    arguments = ("x",)

    block: tuple[int, int] = (1, 1)
    groups: int = 1
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type."""
        batch, height, width, channels = inputs[0].shape
        if channels % (self.block[0] * self.block[1] * self.groups):
            raise ValueError(f"{channels} channels aren't {self.groups} groups of blocks of {self.block}")
        top, left, bottom, right = self.crop
        shape = (batch, height * self.block[0] - top - bottom, width * self.block[1] - left - right)
        return TensorType((*shape, channels // (self.block[0] * self.block[1])), inputs[0].dtype)


@dataclass(frozen=True)
class UpsampleConcat(Attributes):
    """`nn.upsample_concat`: images, each enlarged by whole factors, side by side in one's channels; float32 or uint8.

    `y[n, h, w, first_i + c] = x_i[n, h // factors[2*i], w // factors[2*i+1], c]`, where first_i is the number of
    channels of all images before x_i. The compiler makes it from concatenations and nearest-neighbour resizing. With a
    `frame` (top, left, bottom, right) the result lies in a frame of `frame_value`, as if by `nn.pad`.

    x_i: [N,H/factors[2*i],W/factors[2*i+1],C_i]; result: [N,top+H+bottom,left+W+right,C_0+C_1+...], same dtype.
    """

    name = "nn.upsample_concat"
    arguments = ("x",)

    factors: tuple[int, ...] = (1, 1)
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)
    frame_value: float = 0.0

    @property
    def arity(self) -> int:
        """Number of images."""
        return len(self.factors) // 2

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """How much larger each image gets: (height, width)."""
        return tuple(zip(self.factors[::2], self.factors[1::2], strict=True))

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the framed result's type, same dtype."""
        sizes = {
            (x.shape[0], x.shape[1] * rows, x.shape[2] * columns, x.dtype)
            for x, (rows, columns) in zip(inputs, self.scales, strict=True)
        }
        if len(sizes) > 1:
            raise ValueError(f"Images of {sorted(sizes)} don't fit side by side")
        batch, height, width, dtype = sizes.pop()
        top, left, bottom, right = self.frame
        channels = sum(x.shape[3] for x in inputs)
        return TensorType((batch, top + height + bottom, left + width + right, channels), dtype)

    def framed(self, pad: Pad) -> UpsampleConcat:
        """Return the operator with padding of its result made part of it."""
        return dataclasses.replace(self, frame=pad.padding, frame_value=pad.value)
