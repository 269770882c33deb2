"""Matrix products: with constant weights (dense layers), and of two activations."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType, broadcast_shapes
from pipeline.ops.bases import Accumulated, Linear, too_many_products


@dataclass(frozen=True)
class Dense(Linear):
    """`nn.dense`: `y = clip(x @ weight.T + bias)`, float32. x: [...,K]; weight: [O,K]; bias: [O]; result: [...,O]."""

    name = "nn.dense"
    rowwise = True
    image_by_image = True

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [...,O] float32."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), "float32")

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return one multiply-add for each weight and row of x."""
        return math.prod(inputs[0].shape[:-1]) * inputs[1].size

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result, summed in float64."""
        x, weight, bias = arguments
        return self.clip(x.astype("float64") @ weight.T.astype("float64") + bias)


class _MatrixProduct(Operator):
    """Base of matrix products of two activations."""

    arguments = ("a", "b")
    sums_products = True
    transpose_b: bool

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether the first axis of both operands is a batch of matrices."""
        return not constants and len(inputs[0].shape) == len(inputs[1].shape) > 2

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return one multiply-add for each value of the result and each of the K values summed for it."""
        return self.infer(*inputs).size * inputs[0].shape[-1]

    def shape(self, a: TensorType, b: TensorType) -> tuple[int, ...]:
        """Return the result's shape: [...,M,N].

        Raises:
            ValueError: the operands can't be multiplied.
        """
        if len(a.shape) < 2 or len(b.shape) < 2:
            raise ValueError(f"Matrices {a.shape} and {b.shape} need at least two axes")
        *a_batch, rows, depth = a.shape
        *b_batch, left, right = b.shape
        b_depth, columns = (right, left) if self.transpose_b else (left, right)
        if depth != b_depth:
            raise ValueError(f"Matrices of {a.shape} and {b.shape} can't be multiplied, transpose_b={self.transpose_b}")
        return (*broadcast_shapes(tuple(a_batch), tuple(b_batch)), rows, columns)

    def products(self, a: Array, b: Array) -> Array:
        """Return the products: [...,M,N] float64."""
        right = np.swapaxes(b, -1, -2) if self.transpose_b else b
        return np.asarray(a.astype("float64") @ right.astype("float64"))


@dataclass(frozen=True)
class MatMul(_MatrixProduct):
    """`nn.matmul`: `y = a @ b` for each pair of matrices, float32; neither is constant.

    a: [...,M,K]; b: [...,K,N], or [...,N,K] with `transpose_b`; leading axes are broadcast as NumPy does; result:
    [...,M,N].
    """

    name = "nn.matmul"

    transpose_b: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [...,M,N] float32."""
        return TensorType(self.shape(inputs[0], inputs[1]), "float32")

    def overflow_reason(self, *inputs: TensorType) -> str | None:
        """Return why sums could overflow int32, if K is more than `QMatMul.MAX_DEPTH`."""
        depth = inputs[0].shape[-1]
        return too_many_products(depth) if depth > QMatMul.MAX_DEPTH else None

    def evaluate(self, *arguments: Array) -> Array:
        """Return the products, summed in float64."""
        return self.products(*arguments).astype("float32")


@dataclass(frozen=True)
class QDense(Accumulated):
    """`qnn.dense`: integer dense layer, requantized to uint8 or int16, or dequantized to float32.

    `acc = (x - input_zero_point) @ weight.T + bias` in int32, then as `qnn.conv2d` with one multiplier for each of the
    O channels. `realize` guarantees that acc and `acc * multiplier` fit int32 for every possible x.

    x: [...,K] uint8, or int16 of magnitudes of at most `LARGEST_INT16`; weight: [O,K] int8; bias: [O] int32;
    multiplier: [O] float32; result: [...,O] in `output_dtype`.
    """

    name = "qnn.dense"
    arguments = ("x", "weight", "bias", "multiplier")
    rowwise = True
    image_by_image = True

    input_zero_point: int = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [...,O] in `output_dtype`."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), self.output_dtype)

    def multiply_adds(self, *inputs: TensorType) -> int:
        """Return as many as the float operator has."""
        return Dense().multiply_adds(*inputs)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the result."""
        x, weight, bias, multiplier = arguments
        centred = x.astype("float64") - self.input_zero_point
        return self.finish(centred @ weight.T.astype("float64") + bias, multiplier)


@dataclass(frozen=True)
class QMatMul(_MatrixProduct, Accumulated):
    """`qnn.matmul`: integer matrix products, requantized to uint8 or int16, or dequantized to float32.

    `acc = (a - a_zero_point) @ (b - b_zero_point)` in int32, then as `Accumulated`.

    a: [...,M,K] uint8; b: [...,K,N], or [...,N,K] with `transpose_b`, uint8; leading axes are broadcast as NumPy does;
    result: [...,M,N]. K is at most `MAX_DEPTH`, so that kernels' intermediate sums fit int32, too.
    """

    name = "qnn.matmul"

    MAX_DEPTH: ClassVar[int] = 16_000

    transpose_b: bool = False
    a_zero_point: int = 0
    b_zero_point: int = 0
    multiplier: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [...,M,N] in `output_dtype`."""
        return TensorType(self.shape(inputs[0], inputs[1]), self.output_dtype)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the products."""
        a, b = (x.astype("int32") for x in arguments)
        products = self.products(a - self.a_zero_point, b - self.b_zero_point)
        return self.finish(products, np.float32(self.multiplier))
