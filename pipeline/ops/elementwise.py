"""Sums, products and functions of single values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipeline.ir.operator import Operator, Requantized
from pipeline.ir.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Add(Operator):
    """`nn.add`: `y = clip(a + b)`, float32, broadcasting as NumPy does."""

    name = "nn.add"
    arguments = ("a", "b")

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")


@dataclass(frozen=True)
class Multiply(Operator):
    """`nn.multiply`: `y = a * b`, float32, broadcasting as NumPy does. The compiler makes it from `relax.multiply`."""

    name = "nn.multiply"
    arguments = ("a", "b")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the broadcast type, float32."""
        return TensorType(broadcast_shapes(inputs[0].shape, inputs[1].shape), "float32")


@dataclass(frozen=True)
class Unary(Operator):
    """`nn.unary`: one function of one value, float32, any shape. `expression`: JSON, see `ops.pointwise`."""

    name = "nn.unary"
    arguments = ("x",)

    expression: str = '"x"'

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


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
class QLookup(Operator):
    """`qnn.lookup`: `y = table[x]`. x: any shape, uint8; table: [256] uint8. Any function of one 8-bit value."""

    name = "qnn.lookup"
    arguments = ("x", "table")

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]
