"""How a tensor is to be quantized, and how a range of its values becomes a scale and a zero point.

Annotate decides on a specification for each tensor, and users may edit it. The fields are those of torchao's and NNCF's
configurations. They can describe more than can be computed so far: `unsupported_activation` and `unsupported_weights`
say what can't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.ir.types import LARGEST_INT16, QuantizationParameters, QuantizedDtype
from pipeline.schema import Record

Array = npt.NDArray[Any]

SCALES_ABOVE, SCALES_BELOW = 1e-30, 1e30
"""All scales are between these, so that a scale and its reciprocal are far from float32's limits."""

_SMALLEST_SCALE = float(np.nextafter(np.float32(SCALES_ABOVE), np.float32(1)))


class ObserverSpec(Record, frozen=True, kw_only=True):
    """Which algorithm chooses a tensor's scale and zero point from the values that it sees during calibration.

    Attributes:
        algorithm: a key of `quantization.observers.ALGORITHMS`.
        options: of the algorithm, by name; see its class. Where one is missing, the algorithm's default holds.
    """

    algorithm: str
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, algorithm: str) -> ObserverSpec:
        """Return the specification of an algorithm with its default options."""
        return cls(algorithm=algorithm)


WEIGHT_ALGORITHMS = ("abs_max", "mse")
"""What can choose the scales of weights: the largest magnitude, or the threshold with the smallest squared error."""


class QuantizationSpec(Record, frozen=True, kw_only=True):
    """How a tensor is to be quantized.

    Attributes:
        dtype: what it is stored as.
        signed: whether its values can be negative. If not, quantized values only represent values from zero up.
        symmetric: whether the range of quantized values is symmetric around zero; None leaves it to the options of
            calibration.
        granularity: whether one scale holds for the whole tensor, or each channel has one.
        observer: what chooses the scale; None leaves it to the options of calibration. Weights always have the scale of
            their largest magnitude.
    """

    dtype: Literal["int4", "int8", "uint8", "int16", "uint16"] = "uint8"
    signed: bool = True
    symmetric: bool | None = None
    granularity: Literal["per_tensor", "per_channel"] = "per_tensor"
    observer: ObserverSpec | None = None

    @property
    def steps(self) -> int:
        """How many steps there are from the smallest to the largest quantized value: 255 for 8 bits."""
        return 2 * LARGEST_INT16 if self.dtype == "int16" else 2 ** int(self.dtype.lstrip("uint")) - 1

    @property
    def magnitude_steps(self) -> int:
        """How many steps there are from zero to the largest magnitude: half of all if values can be negative."""
        return self.steps // 2 if self.signed else self.steps

    def unsupported_activation(self) -> str | None:
        """Return why no operator can compute with an activation that is quantized like this; None if operators can."""
        if self.dtype not in ("uint8", "int16"):
            return f"activations are uint8 or int16; {self.dtype} isn't computed yet"
        if self.dtype == "int16" and not (self.signed and self.symmetric):
            return "int16 is signed and symmetric"
        if self.granularity != "per_tensor" and self.dtype != "uint8":
            return f"{self.dtype} has one scale per tensor"
        return None

    def unsupported_weights(self, kind: str = "dense") -> str | None:
        """Return why an operator can't compute with weights that are quantized like this; None if it can.

        Args:
            kind: the operator's, as in reports.
        """
        if self.dtype not in ("int4", "int8") or not self.signed:
            return "weights are signed int8 or int4; nothing else is computed yet"
        if self.dtype == "int4" and kind != "dense":
            return f"weights of {kind} are int8; those of dense layers may be int4"
        if self.symmetric is False:
            return "weights are symmetric; zero points of weights aren't computed yet"
        if self.observer is not None and self.observer not in map(ObserverSpec.of, WEIGHT_ALGORITHMS):
            algorithms = " or ".join(WEIGHT_ALGORITHMS)
            return f"what chooses the scales of weights is {algorithms}, without options; not {self.observer.algorithm}"
        return None


INT16 = QuantizationSpec(dtype="int16", signed=True, symmetric=True, observer=ObserverSpec.of("abs_max"))
"""How activations of 16 bits are quantized. There are steps enough for all of the range, so nothing is clipped."""


def weight_spec(per_channel: bool, algorithm: str | None = None, bits: int = 8) -> QuantizationSpec:
    """Return how weights are quantized: symmetric integers, with one scale per output channel or one per tensor.

    Args:
        per_channel: whether each output channel has a scale of its own.
        algorithm: what chooses the scale, one of `WEIGHT_ALGORITHMS`; None means abs_max for 8 bits, and mse for 4,
            whose 15 values are too few for channels with a single large weight.
        bits: 8, or 4.
    """
    algorithm = algorithm or ("mse" if bits == 4 else "abs_max")
    return QuantizationSpec(
        dtype="int4" if bits == 4 else "int8",
        signed=True,
        symmetric=True,
        granularity="per_channel" if per_channel else "per_tensor",
        observer=None if algorithm == "abs_max" else ObserverSpec.of(algorithm),
    )


@dataclass(frozen=True)
class Choice:
    """What an observer chooses for a tensor.

    Attributes:
        parameters: scale and zero point.
        threshold: the largest magnitude that isn't clipped.
        algorithm: which algorithm's choice it is, where the observer compares several; "" if it is the observer's own.
        closest: the choice with the smallest squared error, where the observer has looked for it and not taken it.
    """

    parameters: QuantizationParameters
    threshold: float
    algorithm: str = ""
    closest: Choice | None = None


class ScaleTooLargeError(ValueError):
    """A range of values is so large that its scale would exceed `SCALES_BELOW`."""


def spread(low: float, high: float, spec: QuantizationSpec) -> Choice:
    """Return scale and zero point with which a tensor's quantized values spread over a range.

    For a symmetric tensor that can be negative, the range becomes symmetric: the larger magnitude holds for both sides.
    Any other range is widened to contain 0. Either way, 0 has an exact quantized value. If the range is only zero, the
    scale is 1; if it is extremely small, the scale is the smallest that is allowed.

    Args:
        low: the smallest value that isn't clipped; 0 is meant if the tensor can't be negative.
        high: the largest one.
        spec: how the tensor is quantized.

    Raises:
        ScaleTooLargeError: the scale would be out of range.
    """
    low, high = min(low, 0.0) if spec.signed else 0.0, max(high, 0.0)
    scales, zero_points = scales_over(np.array([low]), np.array([high]), spec)
    dtype: QuantizedDtype = "int16" if spec.dtype == "int16" else "uint8"
    parameters = QuantizationParameters(float(np.float32(scales[0])), int(zero_points[0]), dtype)
    return Choice(parameters, max(abs(low), high))


def scales_over(lows: Array, highs: Array, spec: QuantizationSpec) -> tuple[Array, Array]:
    """Return scales and zero points with which quantized values spread over ranges; see `spread`.

    Args:
        lows: [C] float64, at most 0; 0 if the tensor can't be negative.
        highs: [C] float64, at least 0.
        spec: how the tensor is quantized.

    Raises:
        ScaleTooLargeError: a scale would be out of range.
    """
    if spec.signed and spec.symmetric:
        scales = _in_range(np.maximum(-lows, highs) / spec.magnitude_steps)
        return scales, np.full(len(scales), 0.0 if spec.dtype == "int16" else spec.magnitude_steps + 1.0)
    scales = _in_range((highs - lows) / spec.steps)
    return scales, np.clip(np.rint(-lows / scales), 0, spec.steps)


def clip(minimum: float, maximum: float, threshold: float, spec: QuantizationSpec) -> Choice:
    """Return scale and zero point with which quantized values spread over what a threshold leaves of a range.

    Args:
        minimum: smallest value seen; above `maximum` if the tensor has no elements.
        maximum: largest value seen.
        threshold: magnitudes above it are clipped; at most the largest one seen.
        spec: how the tensor is quantized.

    Raises:
        ScaleTooLargeError: see `spread`.
    """
    if minimum > maximum:
        minimum = maximum = 0.0
    return spread(max(minimum, -threshold), min(maximum, threshold), spec)


def _in_range(scales: Array) -> Array:
    """Return scales in the range of scales: 1 for 0, as any does for a tensor that is zero."""
    largest = scales.max(initial=0.0)
    if not largest < SCALES_BELOW:
        raise ScaleTooLargeError(f"one of its steps would be {largest:.3g}; scales are below {SCALES_BELOW:g}")
    return np.where(scales == 0, 1.0, np.maximum(scales, _SMALLEST_SCALE))
