"""Operators of transformers, on rows: what lies along the last axis belongs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.dialect.base import Attributes, Requantized
from pipeline.dialect.types import TensorType, broadcast_shapes


@dataclass(frozen=True)
class Softmax(Attributes):
    """`nn.softmax`: `y = exp(x - max(x)) / sum(exp(x - max(x)))` of each row, float32. x: [...,K]; result: the same."""

    name = "nn.softmax"
    arguments = ("x",)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class LayerNorm(Attributes):
    """`nn.layer_norm`: `y = (x - mean(x)) / sqrt(variance(x) + epsilon) * gamma + beta` of each row, float32.

    The variance is that of the population, `mean((x - mean(x))**2)`.

    x: [...,K]; gamma, beta: [K]; result: [...,K].
    """

    name = "nn.layer_norm"
    arguments = ("x", "gamma", "beta")

    epsilon: float = 1e-5

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        x, gamma, beta = inputs
        if gamma.shape != x.shape[-1:] or beta.shape != x.shape[-1:]:
            raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} don't fit rows of {x.shape}")
        return x


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
class MatMul(Attributes):
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


@dataclass(frozen=True)
class QSoftmax(Requantized):
    """`qnn.softmax`: softmax of each row in integers, from a table of exponentials.

    `e = table[max(x) - x]`, int32; `q = int32(rint(float32(e) * (float32(multiplier) / float32(sum(e)))))`, then as
    `Requantized`. `realize` chooses the table so that no sum of a row exceeds int32.

    x: [...,K] uint8; table: [256] int32, at least 0, `table[0]` above 0; result: [...,K] uint8.
    """

    name = "qnn.softmax"
    arguments = ("x", "table")

    multiplier: float = 255.0

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return x's own type."""
        return inputs[0]


@dataclass(frozen=True)
class SortOrder(Attributes):
    """`nn.sort_order`: where the values of each row are that come first when it is sorted, any dtype but bool.

    `y[..., i]` is the index of the value that comes i-th, from the least up, or with `descending` from the largest
    down. Of equal values the one of the lower index comes first. NaN counts as larger than every number.

    x: [...,K]; result: [...,count] int64; count is at most K.
    """

    name = "nn.sort_order"
    arguments = ("x",)

    count: int = 1
    descending: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the indices' type: [...,count] int64."""
        *rows, length = inputs[0].shape
        if not 0 < self.count <= length:
            raise ValueError(f"rows of {length} values have no first {self.count}")
        return TensorType((*rows, self.count), "int64")
