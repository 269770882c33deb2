"""What several operators have in common: fused activations, weights, requantization, halos."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import Sides, pad_image, scaled

C = TypeVar("C", bound="Clipped")
H = TypeVar("H", bound="WithHalo")


class Clipped(Operator):
    """Base of float32 operators that limit their result to [clip_min, clip_max]; None is no limit.

    A fused activation is nothing but that.
    """

    clip_min: float | None
    clip_max: float | None

    def clipped(self: C, low: float | None, high: float | None) -> C | None:
        """Return the operator with its result limited to [low, high], too; None if no limits say the same."""
        if low is not None and self.clip_max is not None and low > self.clip_max:
            return None
        if high is not None and self.clip_min is not None and high < self.clip_min:
            return None
        limits: dict[str, Any] = {
            "clip_min": max((v for v in (self.clip_min, low) if v is not None), default=None),
            "clip_max": min((v for v in (self.clip_max, high) if v is not None), default=None),
        }
        return dataclasses.replace(self, **limits)

    def lower_bound(self, *bounds: float) -> float:
        """Return the lower limit; see the base class."""
        del bounds
        return -math.inf if self.clip_min is None else self.clip_min

    def clip(self, y: Array) -> Array:
        """Return values limited, float32."""
        if self.clip_min is not None:
            y = np.maximum(y, np.float32(self.clip_min))
        if self.clip_max is not None:
            y = np.minimum(y, np.float32(self.clip_max))
        return y.astype("float32")


class Linear(Clipped):
    """Base of float32 operators that are linear in constant weights [O,...] and add a bias [O], one of each channel.

    The result's last axis is that of the channels.
    """

    sums_products = True
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    def may_overflow(self, *inputs: TensorType) -> str | None:
        """Return whether a channel has too many int8 weights to be summed with uint8 values; see the base class."""
        products = math.prod(inputs[1].shape[1:])
        return too_many(products) if products * 127 * 255 >= 2**30 else None


def too_many(products: int) -> str:
    """Return how it is said that a sum of so many products may exceed int32."""
    return f"its sums of {products} products could exceed 32 bits"


@dataclass(frozen=True)
class Requantized(Operator):
    """Base of operators that end in a uint8 tensor.

    Their last step is `y = uint8(min(max(q + output_zero_point, output_min), output_max))` with an int32 `q`; a fused
    activation is nothing but a tighter [output_min, output_max].
    """

    output_zero_point: int = 0
    output_min: int = 0
    output_max: int = 255

    def saturate(self, q: Array) -> Array:
        """Return the last step's result."""
        shifted = q.astype("int64") + self.output_zero_point
        return np.asarray(np.clip(shifted, self.output_min, self.output_max).astype("uint8"))


class Accumulated(Requantized):
    """Base of integer operators that sum products in int32, and give uint8 or float32, as `output_dtype` says.

    With "uint8": `q = int32(rint(float32(acc) * multiplier))`, then as `Requantized`. With "float32":
    `y = float32(acc) * multiplier`, and the other output attributes are not used.
    """

    sums_products = True
    output_dtype: str

    def finish(self, acc: Array, multiplier: Array | np.float32) -> Array:
        """Return the result for sums, of any dtype that holds them."""
        values = scaled(acc, multiplier)
        return values if self.output_dtype == "float32" else self.saturate(np.rint(values))


class WithHalo(Operator):
    """Base of operators that can write a halo of padding around their result, as if by `nn.pad`.

    The halo is (top, left, bottom, right) pixels of `halo_value`; only the compiler sets it.
    """

    halo: Sides
    halo_value: float

    def extensible(self, *inputs: TensorType) -> bool:
        """Return whether kernels for arguments of these types can do more with a result than store it."""
        del inputs
        return True

    def with_halo(self: H, halo: Sides, value: float) -> H:
        """Return the operator with padding of its result made part of it."""
        added: dict[str, Any] = {"halo": halo, "halo_value": type(self.halo_value)(value)}
        return dataclasses.replace(self, **added)

    def bound_with_halo(self, bound: float) -> float:
        """Return the lower bound of a result with its halo, given that of the result alone."""
        return min(bound, self.halo_value) if any(self.halo) else bound

    def surrounded(self, y: Array) -> Array:
        """Return the result within its halo."""
        return pad_image(y, self.halo, self.halo_value)
