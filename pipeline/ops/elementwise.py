"""Sums, products and functions of single values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType, broadcast_shapes
from pipeline.ops.arrays import scaled
from pipeline.ops.bases import Clipped, Requantized
from pipeline.ops.formula import Formula, lower_bound


class _Binary(Operator):
    """Base of operators on two tensors, broadcasting as NumPy does."""

    arguments = ("a", "b")
    elementwise = True


@dataclass(frozen=True)
class Add(_Binary, Clipped):
    """`nn.add`: `y = clip(a + b)`, float32, broadcasting as NumPy does."""

    name = "nn.add"

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")

    def lower_bound(self, *bounds: float) -> float:
        """Return the sum of the operands' bounds, or the lower limit if that is higher."""
        return max(super().lower_bound(), sum(bounds))

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum."""
        a, b = arguments
        return self.clip(a + b)


@dataclass(frozen=True)
class Multiply(_Binary):
    """`nn.multiply`: `y = a * b`, float32, broadcasting as NumPy does. The compiler makes it from `relax.multiply`."""

    name = "nn.multiply"

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")

    def lower_bound(self, *bounds: float) -> float:
        """Return 0 if neither operand has negative values."""
        return lower_bound("multiply", *bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the product."""
        a, b = arguments
        return np.asarray(a * b)


@dataclass(frozen=True)
class Unary(Operator):
    """`nn.unary`: a function of single values, float32, any shape. `expression` is JSON; see `ops.formula`."""

    name = "nn.unary"
    arguments = ("x",)
    elementwise = True

    expression: str = '"x"'

    @classmethod
    def of(cls, formula: Formula) -> Unary:
        """Return the operator that computes a formula."""
        return cls(formula.to_json())

    @property
    def formula(self) -> Formula:
        """The function that `expression` describes."""
        return Formula.parse(self.expression)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        return inputs[0]

    def lower_bound(self, *bounds: float) -> float:
        """Return the bound of the formula."""
        return self.formula.fold(bounds[0], float, lower_bound)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values, computed in float32."""
        return self.formula(arguments[0])


@dataclass(frozen=True)
class PRelu(Operator):
    """`nn.prelu`: `y = x if x >= 0 else x * slope`, float32. x: any shape; slope: constant, broadcast to x by NumPy."""

    name = "nn.prelu"
    arguments = ("x", "slope")
    elementwise = True

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        return inputs[0]

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound if x has no negative values."""
        return bounds[0] if bounds[0] >= 0 else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        x, slope = arguments
        with np.errstate(invalid="ignore"):
            return np.where(x >= 0, x, x * slope)


@dataclass(frozen=True)
class QPRelu(Requantized):
    """`qnn.prelu`: `nn.prelu` of a uint8 or int16 tensor.

    `q = int32(rint(float32(x - input_zero_point) * m))`, then as `Requantized`, where m is `float32(multiplier)` if
    `x >= input_zero_point`, and `slope` elsewhere. Both include the factor input scale / output scale.

    x: any shape; slope: float32, broadcast to x by NumPy. `realize` guarantees that all products fit int32.
    """

    name = "qnn.prelu"
    arguments = ("x", "slope")
    elementwise = True

    input_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, in `output_dtype`."""
        return TensorType(inputs[0].shape, self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        x, slope = arguments
        centred = x.astype("int32") - self.input_zero_point
        return self.saturate(np.rint(scaled(centred, np.where(centred >= 0, np.float32(self.multiplier), slope))))


@dataclass(frozen=True)
class QAdd(_Binary, Requantized):
    """`qnn.add`: sum of two quantized tensors of different scales, in integers only, broadcasting as NumPy does.

    `q = ((a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier + (1 << (shift - 1))) >> shift`, int32
    with an arithmetic shift, then as `Requantized`. Each operand is uint8 or int16. `realize` chooses multipliers with
    which the sum fits int32; if all is uint8, they fit int16. 1 <= shift <= 30.
    """

    name = "qnn.add"

    a_zero_point: int = 0
    b_zero_point: int = 0
    a_multiplier: int = 1
    b_multiplier: int = 1
    shift: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, in `output_dtype`."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), self.output_dtype)

    def swapped(self) -> QAdd:
        """Return the operator that gives the same result for its operands in the other order."""
        return dataclasses.replace(
            self,
            a_zero_point=self.b_zero_point,
            b_zero_point=self.a_zero_point,
            a_multiplier=self.b_multiplier,
            b_multiplier=self.a_multiplier,
        )

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum."""
        a, b = (x.astype("int64") for x in arguments)
        left, right = (a - self.a_zero_point) * self.a_multiplier, (b - self.b_zero_point) * self.b_multiplier
        return self.saturate((left + right + (1 << (self.shift - 1))) >> self.shift)


@dataclass(frozen=True)
class QMultiply(_Binary, Requantized):
    """`qnn.multiply`: product of two quantized tensors, each uint8 or int16, broadcasting as NumPy does.

    `q = int32(rint(float32((a - a_zero_point) * (b - b_zero_point)) * float32(multiplier)))`, then as `Requantized`.
    """

    name = "qnn.multiply"

    a_zero_point: int = 0
    b_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, in `output_dtype`."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the product."""
        a, b = (x.astype("int32") for x in arguments)
        product = (a - self.a_zero_point) * (b - self.b_zero_point)
        return self.saturate(np.rint(scaled(product, np.float32(self.multiplier))))


@dataclass(frozen=True)
class QHardSwish(Requantized):
    """`qnn.hard_swish`: a hard-swish x * clip(x + 3, 0, 6) / 6, scaled and shifted, of float32 values.

    In float32 and in this order, `p = min(x, largest) * (min(max(x, -3), 3) + 3) * factor[c]` and
    `t = factor[c] * shift`; then, in int32, `q = (rint(p) + rint(t) + half) >> fraction_bits`, where half is half of
    what is shifted out, then as `Requantized`. No product is an operand of a float sum, and so the result is the same
    everywhere. `realize` guarantees that what comes out for `largest` saturates the result, and that all sums fit int32
    for every x up to that.

    x: [...,C] float32; factor: [C] float32.
    """

    name = "qnn.hard_swish"
    arguments = ("x", "factor")

    shift: float = 0.0
    fraction_bits: int = 0
    largest: float = math.inf

    @property
    def half(self) -> int:
        """What is added before the last bits are shifted out."""
        return (1 << self.fraction_bits) >> 1

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, in `output_dtype`."""
        return TensorType(inputs[0].shape, self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        x, factor = arguments
        limit = np.float32(3)
        values = np.minimum(x, np.float32(self.largest)) * (np.clip(x, -limit, limit) + limit) * factor
        shift = np.rint(factor * np.float32(self.shift)).astype("int64") + self.half
        return self.saturate((np.rint(values).astype("int64") + shift) >> self.fraction_bits)


@dataclass(frozen=True)
class QLookup(Operator):
    """`qnn.lookup`: `y = table[x]`, any function of single 8-bit values.

    x: any shape, uint8; table: [256] uint8 or int16; result: x's shape, the table's dtype.
    """

    name = "qnn.lookup"
    arguments = ("x", "table")
    image_by_image = True

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, in the table's dtype."""
        return TensorType(inputs[0].shape, inputs[1].dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the table's entries."""
        x, table = arguments
        return np.asarray(table[x])


@dataclass(frozen=True)
class QInterpolate(Requantized):
    """`qnn.interpolate`: any function of single 16-bit values, by a table between whose entries it is linear.

    The table has 2**k + 1 entries, in units of 2**-FRACTION_BITS. With s = 16 - k, `i = (x + 32768) >> s` and
    `f = (x + 32768) & (2**s - 1)`:
    `q = (table[i] * (2**s - f) + table[i + 1] * f + (1 << (s + FRACTION_BITS - 1))) >> (s + FRACTION_BITS)`, int32 with
    an arithmetic shift, then as `Requantized`.

    x: any shape, int16; table: [2**k + 1] int32, 8 <= k <= 12, of magnitudes of at most 2**22; result: x's shape.
    """

    name = "qnn.interpolate"
    arguments = ("x", "table")
    image_by_image = True

    FRACTION_BITS: ClassVar[int] = 6

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, in `output_dtype`."""
        return TensorType(inputs[0].shape, self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        x, table = arguments
        bits = 17 - (table.size - 1).bit_length()
        place = x.astype("int64") + 32768
        first, fraction, wide = place >> bits, place & ((1 << bits) - 1), table.astype("int64")
        shift = bits + self.FRACTION_BITS
        mixed = wide[first] * ((1 << bits) - fraction) + wide[first + 1] * fraction
        return self.saturate((mixed + (1 << (shift - 1))) >> shift)
