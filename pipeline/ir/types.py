"""Static tensor types, shared by every stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_TENSOR_BYTES = 2 * 1024**3
"""Of one tensor. Real ones stay well below; more comes of a wrong size, pad or scale, or of a damaged file."""


@dataclass(frozen=True)
class TensorType:
    """Shape and dtype of a tensor; every dimension is known.

    Example: an activation of 56x56 pixels with 64 channels is `TensorType((1, 56, 56, 64), "uint8")`, NHWC.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes; a bool takes one."""
        bits = self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
        return self.size * (int(bits) // 8 if bits else 1)


def broadcast_shapes(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of two tensors broadcast as NumPy does it.

    Raises:
        ValueError: they can't be broadcast.
    """
    rank = max(len(left), len(right))
    padded_left = (1,) * (rank - len(left)) + left
    padded_right = (1,) * (rank - len(right)) + right
    for a, b in zip(padded_left, padded_right, strict=True):
        if a != b and 1 not in (a, b):
            raise ValueError(f"Shapes {left} and {right} can't be broadcast together")
    return tuple(max(a, b) for a, b in zip(padded_left, padded_right, strict=True))
