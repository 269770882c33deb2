"""Static tensor types, and the scale and zero point of quantized tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TENSOR_BYTES = 2 * 1024**3
"""Largest tensor, in bytes. A larger one comes from a wrong size, pad or scale, or from a damaged file."""


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


@dataclass(frozen=True)
class QuantizationParameters:
    """Scale and zero point of a uint8 tensor, whose quantized value q stands for `scale * (q - zero_point)`.

    Raises:
        ValueError: the scale isn't a finite number above 0, or the zero point isn't in 0..255.
    """

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.scale < math.inf:
            raise ValueError(f"the scale {self.scale} isn't a number above 0")
        if not 0 <= self.zero_point <= 255:
            raise ValueError(f"the zero point {self.zero_point} isn't in 0..255")

    def quantized_range(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Return the least and the largest quantized value of a tensor whose real values lie in [low, high].

        None is no limit: of the range of uint8, 0 or 255 remains.
        """

        def quantized(value: float) -> int:
            return int(min(max(round(value / self.scale) + self.zero_point, 0), 255))

        return (0 if low is None else quantized(low), 255 if high is None else quantized(high))

    def all_values(self) -> npt.NDArray[Any]:
        """Return the real numbers that the quantized values 0 to 255 stand for: [256] float64."""
        return (np.arange(256, dtype="float64") - self.zero_point) * self.scale


def broadcast_shapes(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to which NumPy broadcasts two shapes.

    Raises:
        ValueError: they can't be broadcast together.
    """
    rank = max(len(left), len(right))
    padded_left = (1,) * (rank - len(left)) + left
    padded_right = (1,) * (rank - len(right)) + right
    for a, b in zip(padded_left, padded_right, strict=True):
        if a != b and 1 not in (a, b):
            raise ValueError(f"Shapes {left} and {right} can't be broadcast together")
    return tuple(max(a, b) for a, b in zip(padded_left, padded_right, strict=True))
