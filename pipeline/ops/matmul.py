"""Matrix products: with constant weights, and of two activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.ir.operator import Operator, Requantized
from pipeline.ir.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Dense(Operator):
    """`nn.dense`: `y = clip(x @ weight.T + bias)`, float32. x: [...,K]; weight: [O,K]; bias: [O]; result: [...,O]."""

    name = "nn.dense"
    arguments = ("x", "weight", "bias")

    clip_min: float | None = None
    clip_max: float | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [...,O] float32."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), "float32")


def _matmul_shape(a: TensorType, b: TensorType, transpose_b: bool) -> tuple[int, ...]:
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise ValueError(f"Matrices {a.shape} and {b.shape} need two axes at least")
    *a_batch, rows, depth = a.shape
    *b_batch, left, right = b.shape
    b_depth, columns = (right, left) if transpose_b else (left, right)
    if depth != b_depth:
        raise ValueError(f"Matrices of {a.shape} and {b.shape} can't be multiplied, transpose_b={transpose_b}")
    return (*broadcast_shapes(tuple(a_batch), tuple(b_batch)), rows, columns)


@dataclass(frozen=True)
class MatMul(Operator):
    """`nn.matmul`: `y = a @ b` for each pair of matrices, float32; neither is constant.

    a: [...,M,K]; b: [...,K,N], or [...,N,K] with `transpose_b`; leading axes are broadcast as NumPy does; result:
    [...,M,N].
    """

    name = "nn.matmul"
    arguments = ("a", "b")

    transpose_b: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the products' type: [...,M,N] float32."""
        return TensorType(_matmul_shape(inputs[0], inputs[1], self.transpose_b), "float32")


@dataclass(frozen=True)
class QDense(Requantized):
    """`qnn.dense`: as `qnn.conv2d` for a matrix product with constant weights.

    x: [...,K] uint8; weight: [O,K] int8; bias: [O] int32; multiplier: [O] float32; result: [...,O] uint8 or float32.
    """

    name = "qnn.dense"
    arguments = ("x", "weight", "bias", "multiplier")

    input_zero_point: int = 0
    output_dtype: str = "uint8"

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [...,O] in `output_dtype`."""
        return TensorType((*inputs[0].shape[:-1], inputs[1].shape[0]), self.output_dtype)


@dataclass(frozen=True)
class QMatMul(Requantized):
    """`qnn.matmul`: integer matrix products, requantized to uint8 or dequantized to float32.

    `acc = (a - a_zero_point) @ (b - b_zero_point)` in int32. With `output_dtype` "uint8":
    `q = int32(rint(float32(acc) * float32(multiplier)))`, then as `Requantized`. With "float32":
    `y = float32(acc) * float32(multiplier)`, and the output fields are not used.

    a: [...,M,K] uint8; b: [...,K,N], or [...,N,K] with `transpose_b`, uint8; leading axes are broadcast as NumPy does;
    result: [...,M,N]. K is at most `MAX_DEPTH`, so that all sums fit int32 on the way, too.
    """

    name = "qnn.matmul"
    arguments = ("a", "b")

    MAX_DEPTH: ClassVar[int] = 16_000

    transpose_b: bool = False
    a_zero_point: int = 0
    b_zero_point: int = 0
    multiplier: float = 1.0
    output_dtype: str = "uint8"

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the products' type: [...,M,N] in `output_dtype`."""
        return TensorType(_matmul_shape(inputs[0], inputs[1], self.transpose_b), self.output_dtype)
