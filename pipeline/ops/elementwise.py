"""Sums, products and functions of single values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

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
    """`qnn.prelu`: `nn.prelu` of a uint8 tensor.

    `q = int32(rint(float32(x - input_zero_point) * m))`, then as `Requantized`, where m is `float32(multiplier)` if
    `x >= input_zero_point`, and `slope` elsewhere. Both include the factor input scale / output scale.

    x: any shape, uint8; slope: float32, broadcast to x by NumPy. `realize` guarantees that all products fit int32.
    """

    name = "qnn.prelu"
    arguments = ("x", "slope")
    elementwise = True

    input_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's shape, uint8."""
        return TensorType(inputs[0].shape, "uint8")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        x, slope = arguments
        centred = x.astype("int32") - self.input_zero_point
        return self.saturate(np.rint(scaled(centred, np.where(centred >= 0, np.float32(self.multiplier), slope))))


@dataclass(frozen=True)
class QAdd(_Binary, Requantized):
    """`qnn.add`: sum of two uint8 tensors of different scales, in integers only, broadcasting as NumPy does.

    `q = ((a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier + (1 << (shift - 1))) >> shift`, int32
    with an arithmetic shift, then as `Requantized`. `realize` chooses multipliers that fit int16. 1 <= shift <= 30.
    """

    name = "qnn.add"

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

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sum."""
        a, b = (x.astype("int64") for x in arguments)
        left, right = (a - self.a_zero_point) * self.a_multiplier, (b - self.b_zero_point) * self.b_multiplier
        return self.saturate((left + right + (1 << (self.shift - 1))) >> self.shift)


@dataclass(frozen=True)
class QMultiply(_Binary, Requantized):
    """`qnn.multiply`: product of two uint8 tensors, broadcasting as NumPy does.

    `q = int32(rint(float32((a - a_zero_point) * (b - b_zero_point)) * float32(multiplier)))`, then as `Requantized`.
    """

    name = "qnn.multiply"

    a_zero_point: int = 0
    b_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, uint8."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "uint8")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the product."""
        a, b = (x.astype("int32") for x in arguments)
        product = (a - self.a_zero_point) * (b - self.b_zero_point)
        return self.saturate(np.rint(scaled(product, np.float32(self.multiplier))))


@dataclass(frozen=True)
class QLookup(Operator):
    """`qnn.lookup`: `y = table[x]`, any function of single 8-bit values. x: any shape, uint8; table: [256] uint8."""

    name = "qnn.lookup"
    arguments = ("x", "table")
    image_by_image = True

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the type of x."""
        return inputs[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the table's entries."""
        x, table = arguments
        return np.asarray(table[x])
