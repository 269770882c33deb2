"""Operators whose result has more pixels than their input."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.dialect.base import Attributes, Requantized
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
