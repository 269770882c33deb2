"""Static tensor types, and the scale and zero point of quantized tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
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


LARGEST_INT16 = 127 * 256 + 127
"""Largest magnitude in a 16-bit quantized tensor: any such value x is `256 * h + l` with h and l in -128..127."""

QuantizedDtype: TypeAlias = Literal["uint8", "int16"]
"""The dtypes of quantized activations."""

QUANTIZED_LIMITS: Mapping[str, tuple[int, int]] = {"uint8": (0, 255), "int16": (-LARGEST_INT16, LARGEST_INT16)}
"""The least and the largest quantized value of each dtype."""


class QuantizationParameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Scale and zero point of a quantized tensor, whose quantized value q stands for `scale * (q - zero_point)`.

    Attributes:
        scale: size of one step; of a tensor whose channels have a scale each, the largest.
        zero_point: the quantized value of 0.0.
        dtype: of quantized values, one of `QUANTIZED_LIMITS`. The metadata of libraries leave it out where it is uint8.
        channel_scales: the scale of each channel, the last axis; empty if `scale` holds for all.

    Raises:
        ValueError: a scale isn't a finite number above 0, or the zero point isn't a quantized value, or isn't 0 with
            16 bits.
    """

    scale: float
    zero_point: int
    dtype: QuantizedDtype = "uint8"
    channel_scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        for scale in (self.scale, *self.channel_scales):
            if not 0 < scale < math.inf:
                raise ValueError(f"the scale {scale} isn't a number above 0")
        low, high = (0, 0) if self.dtype == "int16" else self.limits
        if not low <= self.zero_point <= high:
            raise ValueError(f"the zero point {self.zero_point} isn't in {low}..{high}")

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest quantized value."""
        return QUANTIZED_LIMITS[self.dtype]

    @property
    def furthest(self) -> int:
        """The largest distance of a quantized value from the zero point, whatever that is: 255 for 8 bits."""
        return LARGEST_INT16 if self.dtype == "int16" else 255

    def with_one_scale(self) -> QuantizationParameters:
        """Return the same with `scale` for all channels."""
        return msgspec.structs.replace(self, channel_scales=())

    def scales_for(self, outputs: int) -> npt.NDArray[Any]:
        """Return what scale counts for each output channel of an operator with weights: [outputs] float64.

        That is the operator which computes the tensor, or a depthwise convolution that reads it, whose outputs belong
        to one channel each, in order.
        """
        if not self.channel_scales:
            return np.full(outputs, self.scale)
        return np.repeat(np.array(self.channel_scales), outputs // len(self.channel_scales))

    @property
    def step(self) -> npt.NDArray[Any]:
        """The size of one step: [C] float64, or a scalar [] if it is the same in all channels."""
        return np.array(self.channel_scales or self.scale)

    @property
    def factors(self) -> npt.NDArray[Any]:
        """By what channels are multiplied so that the largest scale holds for all: float64 [C], or [0] if it does."""
        return np.array([self.scale / scale for scale in self.channel_scales])

    def quantized_range(self, low: float | None, high: float | None) -> tuple[int, int]:
        """Return the least and the largest quantized value of a tensor whose real values lie in [low, high].

        None is no limit: of the dtype's range, the least or the largest remains.
        """
        least, largest = self.limits

        def quantized(value: float) -> int:
            return int(min(max(round(value / self.scale) + self.zero_point, least), largest))

        return (least if low is None else quantized(low), largest if high is None else quantized(high))

    def dequantized(self, quantized: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the real numbers that quantized values [...,C], or of any shape with one scale, stand for: float64."""
        return np.asarray((quantized.astype("float64") - self.zero_point) * self.step)

    def all_values(self) -> npt.NDArray[Any]:
        """Return the real numbers that all quantized values stand for, from the least up: [256] float64 for 8 bits."""
        least, largest = self.limits
        return self.dequantized(np.arange(least, largest + 1))


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
