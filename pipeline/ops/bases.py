"""Base classes of operators: with fused activations, with weights, with requantization, and with halos."""

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

    A fused ReLU is such a limit.
    """

    clip_min: float | None
    clip_max: float | None

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.clip_min is not None or self.clip_max is not None

    def with_limits(self: C, low: float | None, high: float | None) -> C | None:
        """Return the operator with its result limited to [low, high], too; None if the two ranges don't overlap."""
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
        """Return the lower limit."""
        del bounds
        return -math.inf if self.clip_min is None else self.clip_min

    def clip(self, y: Array) -> Array:
        """Return values limited to [clip_min, clip_max], in float32."""
        if self.clip_min is not None:
            y = np.maximum(y, np.float32(self.clip_min))
        if self.clip_max is not None:
            y = np.minimum(y, np.float32(self.clip_max))
        return y.astype("float32")


class Linear(Clipped):
    """Base of float32 operators that sum products with constant weights [O,...] and add a constant bias [O].

    O is the number of output channels, the last axis of the result.
    """

    sums_products = True
    arguments: ClassVar[tuple[str, ...]] = ("x", "weight", "bias")

    def overflow_reason(self, *inputs: TensorType) -> str | None:
        """Return why a channel's sum of uint8 values times int8 weights could overflow int32, if it has too many."""
        products = math.prod(inputs[1].shape[1:])
        return too_many_products(products) if products * 127 * 255 >= 2**30 else None


def too_many_products(products: int) -> str:
    """Return the reason for an operator whose sums have so many products that they could overflow int32."""
    return f"its sums of {products} products could exceed 32 bits"


@dataclass(frozen=True)
class Requantized(Operator):
    """Base of operators whose result is requantized to uint8, or to int16.

    Their last step is `y = output_dtype(min(max(q + output_zero_point, output_min), output_max))` with an int32 `q`. A
    fused activation makes [output_min, output_max] narrower than the range of `ir.types.QUANTIZED_LIMITS`.
    """

    output_zero_point: int = 0
    output_min: int = 0
    output_max: int = 255
    output_dtype: str = "uint8"

    def saturate(self, q: Array) -> Array:
        """Return y for q, an array of integers or of floats that are integers; see the class."""
        shifted = q.astype("int64") + self.output_zero_point
        # What the compiler stores as int8 is uint8 before.
        dtype = "uint8" if self.output_dtype == "int8" else self.output_dtype
        return np.asarray(np.clip(shifted, self.output_min, self.output_max).astype(dtype))


class Accumulated(Requantized):
    """Base of integer operators that sum products in an int32 `acc`, and return uint8, int16 or float32.

    With `output_dtype` "uint8" or "int16": `q = int32(rint(float32(acc) * multiplier))`, then as `Requantized`. With
    "float32": `y = float32(acc) * multiplier`, and output_zero_point, output_min and output_max aren't used.
    """

    sums_products = True

    def finish(self, acc: Array, multiplier: Array | np.float32) -> Array:
        """Return y for the sums `acc`, an array of any dtype that holds int32 values exactly."""
        values = scaled(acc, multiplier)
        return values if self.output_dtype == "float32" else self.saturate(np.rint(values))


class WithHalo(Operator):
    """Base of operators that can write a halo around their result, as if by a following `nn.pad`.

    `halo` is (top, left, bottom, right) pixels of `halo_value`. The compiler sets it (the pass WriteHalos); in programs
    that are imported or quantized there is none.
    """

    halo: Sides
    halo_value: float

    def has_epilogue(self, *inputs: TensorType) -> bool:
        """Return whether the kernels for arguments of these types have an epilogue.

        Such kernels can add a residual, look up a table, or write a halo before they store a result.
        """
        del inputs
        return True

    def with_halo(self: H, halo: Sides, value: float) -> H:
        """Return the operator with another halo."""
        added: dict[str, Any] = {"halo": halo, "halo_value": type(self.halo_value)(value)}
        return dataclasses.replace(self, **added)

    def bound_with_halo(self, bound: float) -> float:
        """Return the lower bound of the result with its halo, given the bound of the result without."""
        return min(bound, self.halo_value) if any(self.halo) else bound

    def add_halo(self, y: Array) -> Array:
        """Return the result y with its halo around it."""
        return pad_image(y, self.halo, self.halo_value)
