"""Convolutions, and convolutions with a residual or a lookup fused in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import (
    NO_SIDES,
    Sides,
    cropped,
    pad_image,
    padded_type,
    signed,
    sum_dtype,
    unsigned,
    window_positions,
)
from pipeline.ops.bases import Accumulated, Linear, WithHalo
from pipeline.ops.elementwise import Add, QAdd, QHardSwish

R = TypeVar("R", bound="ResidualConvolution")


class _Convolution(WithHalo):
    """Base of convolutions."""

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result with its halo; its sums are computed in float64."""
        return self.add_halo(self._stored(self._interior(*arguments)))

    def _interior(self, *arguments: Array) -> Array:
        """Return the result without its halo."""
        raise NotImplementedError

    def _stored(self, result: Array) -> Array:
        """Return the result without its halo as it is stored."""
        return result


class ResidualConvolution(_Convolution):
    """Base of convolutions whose kernel adds a residual, the last argument, to the result before storing it.

    The residual may lie inside a halo of its own: `residual_halo` pixels (top, left, bottom, right) around it are
    ignored.
    """

    residual_halo: Sides

    @property
    def addition(self) -> Operator:
        """The addition alone: an operator on the convolution's result and the residual."""
        raise NotImplementedError

    def with_residual_halo(self: R, halo: Sides) -> R:
        """Return the operator for a residual that lies inside a halo."""
        changed: dict[str, Any] = {"residual_halo": halo}
        return dataclasses.replace(self, **changed)

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether the convolution without the residual, which is an activation, too, splits."""
        return super().splits_batch(inputs[:-1], constants)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum with its halo."""
        *convolved, residual = arguments
        total = self.addition.evaluate(self._interior(*convolved), unsigned(cropped(residual, self.residual_halo)))
        return self.add_halo(self._stored(total))


@dataclass(frozen=True)
class Conv2d(Linear, _Convolution):
    """`nn.conv2d`: 2-D convolution, bias and clip, float32.

    `y[n,h,w,o] = clip(bias[o] + sum(x_padded[n, h*sh + i*dh, w*sw + j*dw, g*I + c] * weight[o,i,j,c]))`, with
    `g = o // (O / groups)`. `padding` is (top, left, bottom, right); padded pixels are 0.

    x: [N,H,W,C]; weight: [O,KH,KW,C/groups]; bias: [O]; result: [N,OH,OW,O]; all float32.

    With a `halo`, see `WithHalo`, the result is [N,top+OH+bottom,left+OW+right,O].
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
        """Return the result's type: [N,OH,OW,O] float32, plus the halo."""
        return padded_type(TensorType(self._shape(inputs[0], inputs[1]), "float32"), self.halo)

    def lower_bound(self, *bounds: float) -> float:
        """Return the lower limit, or the halo's value if that is lower."""
        return self.bound_with_halo(super().lower_bound(*bounds))

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return one multiply-add for each weight and pixel of the result."""
        batch, height, width, _ = self._shape(inputs[0], inputs[1])
        return batch * height * width * inputs[1].size

    def has_epilogue(self, *inputs: TensorType) -> bool:
        """Return whether the convolution isn't depthwise."""
        out, _, _, per_group = inputs[1].shape
        return not (self.groups > 1 and per_group == 1 and out == self.groups)

    def _interior(self, *arguments: Array) -> Array:
        x, weight, bias = arguments
        return self.clip(self.sums(x, weight) + bias)

    def sums(self, x: Array, weight: Array) -> Array:
        """Return the sums of products, without bias: [N,OH,OW,O], in the dtype that `sum_dtype` gives."""
        dtype = sum_dtype(x, weight)
        (stride_h, stride_w), (dilation_h, dilation_w) = self.strides, self.dilation
        batch, out_h, out_w, out = self._shape(_type_of(x), _type_of(weight))
        image, kernels = pad_image(x, self.padding, 0).astype(dtype), weight.astype(dtype)
        result = np.zeros((batch, out_h, out_w, out), dtype)
        for i, j in np.ndindex(weight.shape[1:3]):
            rows = slice(i * dilation_h, i * dilation_h + stride_h * (out_h - 1) + 1, stride_h)
            columns = slice(j * dilation_w, j * dilation_w + stride_w * (out_w - 1) + 1, stride_w)
            result += self._products(image[:, rows, columns], kernels[:, i, j])
        return result

    def _products(self, pixels: Array, weight: Array) -> Array:
        """Return what one step of the kernel, [O,C/groups], adds to the sums: [N,OH,OW,O]."""
        out, per_group = weight.shape
        if per_group == 1 and out == self.groups:
            return np.asarray(pixels * weight[:, 0])
        grouped = pixels.reshape(-1, self.groups, per_group).transpose(1, 0, 2)
        products = grouped @ weight.reshape(self.groups, -1, per_group).transpose(0, 2, 1)
        return np.asarray(products.transpose(1, 0, 2).reshape(*pixels.shape[:3], out))

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
class Conv2dAdd(ResidualConvolution, Conv2d):
    """`nn.conv2d_add`: `nn.add(nn.conv2d(x, weight, bias), residual)`, then the halo; float32.

    The compiler makes it from the two operators, so that the convolution's result stays in registers. `sum_clip_min`
    and `sum_clip_max` limit the sum, `clip_min` and `clip_max` the convolution's own result.

    residual: [N,OH,OW,O], or larger by `residual_halo`.
    """

    name = "nn.conv2d_add"
    arguments = ("x", "weight", "bias", "residual")

    sum_clip_min: float | None = None
    sum_clip_max: float | None = None
    residual_halo: Sides = NO_SIDES

    @classmethod
    def of(cls, convolution: Conv2d, addition: Add) -> Conv2dAdd:
        """Return a convolution and an addition as one operator."""
        fields = {f.name: getattr(convolution, f.name) for f in dataclasses.fields(Conv2d)}
        return cls(**fields, sum_clip_min=addition.clip_min, sum_clip_max=addition.clip_max)

    @property
    def addition(self) -> Add:
        """The addition alone: an operator on the convolution's result and the residual."""
        return Add(self.sum_clip_min, self.sum_clip_max)

    def lower_bound(self, *bounds: float) -> float:
        """Return the sum's bound, or the halo's value if that is lower."""
        return self.bound_with_halo(self.addition.lower_bound(Linear.lower_bound(self), bounds[-1]))


@dataclass(frozen=True)
class QConv2d(Accumulated, _Convolution):
    """`qnn.conv2d`: integer convolution, requantized to uint8 or int16, or dequantized to float32.

    `acc[n,h,w,o] = bias[o] + sum((x_padded - input_zero_point) * weight[o])` in int32, where padded pixels are
    `input_zero_point`. It is requantized as `Accumulated`, with `multiplier[o]`. With `output_dtype` "int8", which only
    the compiler makes, the result is what uint8 would be, stored minus 128; `halo_value` is what is stored.

    x: [N,H,W,C] uint8, or the same stored minus 128 as int8, or int16 of magnitudes of at most `LARGEST_INT16`;
    weight: [O,KH,KW,C/groups] int8; bias: [O] int32; multiplier: [O] float32, at least 0; result: [N,OH,OW,O].
    `realize` guarantees that acc and `acc * multiplier` fit int32 for every possible x.

    With a `halo`, see `WithHalo`, the uint8 result is [N,top+OH+bottom,left+OW+right,O].

    The first and the last rows of x, as many as `zero_rows` says, hold `input_zero_point`, as the compiler knows of
    what it has padded: kernels may leave out their products, which are zero.
    """

    name = "qnn.conv2d"
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias", "multiplier")
    image_by_image = True

    strides: tuple[int, int] = (1, 1)
    padding: Sides = NO_SIDES
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_zero_point: int = 0
    halo: Sides = NO_SIDES
    halo_value: int = 0
    zero_rows: tuple[int, int] = (0, 0)

    @property
    def geometry(self) -> Conv2d:
        """The float convolution with the same strides, padding, dilation and groups, without a halo."""
        return Conv2d(self.strides, self.padding, self.dilation, self.groups)

    @property
    def stores_bytes(self) -> bool:
        """Whether the result is uint8, or stored as int8."""
        return self.output_dtype in ("uint8", "int8")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [N,OH,OW,O] in `output_dtype`, plus the halo."""
        return padded_type(TensorType(self.geometry.infer(*inputs[:2]).shape, self.output_dtype), self.halo)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return as many as the float convolution has."""
        return self.geometry.multiply_adds(*inputs)

    def has_epilogue(self, *inputs: TensorType) -> bool:
        """Return whether the convolution isn't depthwise, and its result is uint8."""
        return self.output_dtype == "uint8" and self.geometry.has_epilogue(*inputs)

    def _interior(self, *arguments: Array) -> Array:
        x, weight, bias, multiplier = arguments
        centred = unsigned(x).astype("int32") - self.input_zero_point
        sums = self.geometry.sums(centred, weight).astype("int32")
        return self.finish(sums + bias, multiplier)

    def _stored(self, result: Array) -> Array:
        return signed(result) if self.output_dtype == "int8" else result


@dataclass(frozen=True)
class QConv2dAdd(ResidualConvolution, QConv2d):
    """`qnn.conv2d_add`: `qnn.add(qnn.conv2d(x, weight, bias, multiplier), residual)` to the bit, then the halo.

    The compiler makes it from the two operators, so that the convolution's result stays in registers. Its attributes
    are those of the convolution, then those of the addition, whose first operand is the convolution's result.

    residual: [N,OH,OW,O] uint8, or the same stored minus 128 as int8; or larger by `residual_halo`.
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
    def of(cls, convolution: QConv2d, addition: QAdd) -> QConv2dAdd:
        """Return a convolution, and an addition whose first operand is its result, as one operator."""
        return cls(
            **{f.name: getattr(convolution, f.name) for f in dataclasses.fields(QConv2d)},
            residual_zero_point=addition.b_zero_point,
            convolution_multiplier=addition.a_multiplier,
            residual_multiplier=addition.b_multiplier,
            shift=addition.shift,
            sum_zero_point=addition.output_zero_point,
            sum_min=addition.output_min,
            sum_max=addition.output_max,
        )

    @property
    def addition(self) -> QAdd:
        """The addition alone: an operator on the convolution's result and the residual."""
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
    """`qnn.conv2d_lookup`: `qnn.lookup(qnn.conv2d(x, weight, bias, multiplier), table)`, then the halo.

    The compiler makes it for instruction sets that look tables up in registers. table: [256] uint8.
    """

    name = "qnn.conv2d_lookup"
    arguments = ("x", "weight", "bias", "multiplier", "table")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the table's entries for the convolution's result, with the halo."""
        *convolved, table = arguments
        return self.add_halo(table[self._interior(*convolved)])


@dataclass(frozen=True)
class QConv2dHardSwish(QConv2d):
    """`qnn.conv2d_hard_swish`: `qnn.hard_swish` of what `qnn.conv2d` gives as float32, then the halo.

    The compiler makes it from the two operators, so that the convolution's sums stay in registers. `shift`,
    `fraction_bits` and `largest` are those of `qnn.hard_swish`, and the result is stored as its result.

    factor: [O] float32.
    """

    name = "qnn.conv2d_hard_swish"
    arguments = ("x", "weight", "bias", "multiplier", "factor")

    shift: float = 0.0
    fraction_bits: int = 0
    largest: float = math.inf

    @classmethod
    def of(cls, convolution: QConv2d, function: QHardSwish) -> QConv2dHardSwish:
        """Return a convolution that gives float32, and a function of its result, as one operator."""
        fields = {f.name: getattr(convolution, f.name) for f in dataclasses.fields(QConv2d)}
        return cls(**fields | {f.name: getattr(function, f.name) for f in dataclasses.fields(QHardSwish)})

    @property
    def function(self) -> QHardSwish:
        """The function alone: an operator on the convolution's sums."""
        return QHardSwish(**{f.name: getattr(self, f.name) for f in dataclasses.fields(QHardSwish)})

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values, with the halo."""
        *convolved, factor = arguments
        sums = dataclasses.replace(self, output_dtype="float32")._interior(*convolved)
        return self.add_halo(self._stored(self.function.evaluate(sums, factor)))


def _type_of(array: Array) -> TensorType:
    return TensorType(array.shape, str(array.dtype))
