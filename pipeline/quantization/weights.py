"""Quantizes weights and biases, and turns scales into the multipliers that integer operators use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.spec import QuantizationSpec

Array = npt.NDArray[Any]

MAX_BIAS = 2**28
"""Largest |bias| in units of the int32 accumulator; the rest of the int32 range is left for the sum of products."""

MULTIPLIER_BITS, BYTE_MULTIPLIER_BITS = 22, 16
"""Significant bits of multipliers, and of those whose results have 8 bits."""

MAX_SUM_MULTIPLIER = 2**15 - 1
"""Largest multiplier of a sum's operand."""

LARGEST_BYTE_SHIFT = 14
"""Largest shift of a sum of 8 bits. Multipliers are then wrong by less than 1/100 of a step of the result."""


SMALLEST_SHARE, SHARES = 0.4, 61
"""Of the largest magnitude, the smallest share that is tried as a threshold, and how many are: 1, 0.99, 0.98 ..."""

NEGLIGIBLE = 2.0**-40
"""Share of the weights' power below which an error is that of float32: no threshold is better."""

WEIGHTS_TOGETHER = 1 << 14
"""Weights that are quantized, or that thresholds are tried on, at a time: they stay in the first-level or second-level
cache."""


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights and bias of one operator, output channels first.

    Attributes:
        weight: int8, in [-127, 127] or, with 4 bits, in [-7, 7], of the float weights' shape.
        bias: [O] int32 at scale input_scale * scale[o], or input_scale[o] * scale[o].
        scale: [O] float64, one weight step.
    """

    weight: Array
    bias: Array
    scale: Array

    def values(self) -> Array:
        """Return what the quantized weights stand for: float64, of their shape."""
        return np.asarray(self.weight * self.scale.reshape(-1, *(1,) * (self.weight.ndim - 1)))


def quantize_weights(
    weight: Array, bias: Array, input_scale: Array | float, spec: QuantizationSpec
) -> QuantizedWeights:
    """Quantize weights so that a threshold, per output channel or per tensor, becomes 127, or 7 with 4 bits.

    The threshold is the largest magnitude or, with `mse`, the one with the smallest squared error. A channel of zeros
    gets scale 1. If the weights of a channel are so small that its bias, in units of input_scale * scale, would not fit
    32 bits, the channel gets a larger scale.

    Args:
        weight: [O, ...] float32.
        bias: [O] float32.
        input_scale: scale of the input's quantized values: one, or one for each output channel, [O]; see
            `QuantizationParameters.scales_for`.
        spec: int8 or int4, symmetric; one scale for each output channel, or the same for all; what chooses it.
    """
    rows = weight.reshape(weight.shape[0], -1)
    scale = np.broadcast_to(_scales(rows, spec), len(rows))
    scale = np.maximum(scale, np.abs(bias.astype("float64")) / (input_scale * MAX_BIAS))
    largest, quantized = spec.magnitude_steps, np.empty(rows.shape, "int8")
    for part in _parts(rows):
        steps = rows[part] / scale[part, None]
        quantized[part] = np.clip(np.rint(steps, out=steps), -largest, largest, out=steps)
    shift = np.rint(bias.astype("float64") / (input_scale * scale)).astype("int32")
    return QuantizedWeights(quantized.reshape(weight.shape), shift, scale)


def _scales(rows: Array, spec: QuantizationSpec) -> Array:
    """Return the scale of each row, or of all rows together, [1], if there is to be one per tensor."""
    if spec.granularity == "per_tensor":
        rows = rows.reshape(1, -1)
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)).astype("float64")
    scales = np.where(largest > 0, largest / spec.magnitude_steps, 1.0)
    if spec.observer is None or spec.observer.algorithm == "abs_max":
        return scales
    found = (_with_least_error(rows[p].astype("float64"), scales[p], spec.magnitude_steps) for p in _parts(rows))
    return np.concatenate([scales[:0], *found])


def _parts(rows: Array) -> list[slice]:
    """Return parts of rows [R,K], each of which fits in the cache: all of a large layer in float64 takes megabytes."""
    together = max(1, WEIGHTS_TOGETHER // max(rows.shape[1], 1))
    return [slice(first, first + together) for first in range(0, len(rows), together)]


def _with_least_error(rows: Array, scales: Array, steps: int) -> Array:
    """Return the share of each row's scale, [R], with the smallest squared error; `rows` are [R,K] float64."""
    best, smallest_error, values = scales.copy(), np.full(len(rows), np.inf), np.empty_like(rows)
    negligible = NEGLIGIBLE * np.square(rows).sum(axis=1)
    for share in np.linspace(1, SMALLEST_SHARE, SHARES):
        step = (scales * share)[:, None]
        np.rint(np.divide(rows, step, out=values), out=values)
        np.multiply(np.clip(values, -steps, steps, out=values), step, out=values)
        errors = np.square(np.subtract(values, rows, out=values), out=values).sum(axis=1)
        better = errors < smallest_error
        best[better], smallest_error[better] = step[better, 0], errors[better]
        if (smallest_error <= negligible).all():
            # As of weights that have been rounded already.
            break
    return best


def accumulator_bounds(
    weights: QuantizedWeights, input_zero_point: int, largest_input: int = 255
) -> tuple[Array, Array]:
    """Return the largest |accumulator| that any input can give, at the end and during the sum; each [O] float64.

    During the sum, what counts is the order in which kernels add: they start with bias - input_zero_point *
    sum(weights) and add products of weights and quantized values, from which no zero point is subtracted.

    Args:
        weights: the quantized weights and bias.
        input_zero_point: of the quantized values.
        largest_input: their largest magnitude: 255, or with 16 bits, where the zero point is 0, `LARGEST_INT16`.
    """
    rows = weights.weight.reshape(weights.weight.shape[0], -1)
    magnitude = np.abs(rows).sum(axis=1, dtype="int64").astype("float64")
    bias = np.abs(weights.bias.astype("float64"))
    furthest = max(input_zero_point, largest_input - input_zero_point)
    return magnitude * furthest + bias, magnitude * (largest_input + input_zero_point) + bias


def short_multipliers(multipliers: Array, dtype: str = "float32") -> Array:
    """Return multipliers rounded to `MULTIPLIER_BITS`, as float32 of the same shape.

    With so short multipliers, kernels can do without converting their int32 sums to float32 (`kernels.lib.requantize`).
    For results of 8 bits, `BYTE_MULTIPLIER_BITS` are enough, and take less space in a library: the relative error, at
    most 2**-16, is less than 1/250 of a step.

    Args:
        multipliers: of any shape.
        dtype: of the results.
    """
    bits = BYTE_MULTIPLIER_BITS if dtype == "uint8" else MULTIPLIER_BITS
    mantissa, exponent = np.frexp(multipliers.astype("float64"))
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits), "float32")


def sum_multipliers(
    a: QuantizationParameters, b: QuantizationParameters, output: QuantizationParameters
) -> tuple[int, int, int]:
    """Return (a_multiplier, b_multiplier, shift) for `qnn.add`.

    Each scale's ratio to the output's becomes multiplier / 2**shift. If all tensors have 8 bits, it is the largest
    shift up to `LARGEST_BYTE_SHIFT` at which both multipliers fit 16 bits: the sum then fits 32 bits, CPUs multiply
    such numbers two at a time, and sums with the same shift share their code. If one tensor has 16 bits, it is the
    largest at which the sum fits 32 bits.

    Raises:
        ValueError: an operand's scale is too large for the output's: with 8 bits, over 2**14 times as large.
    """
    ratios = (a.scale / output.scale, b.scale / output.scale)
    bytes_only = all(p.dtype == "uint8" for p in (a, b, output))
    for shift in range(LARGEST_BYTE_SHIFT if bytes_only else 30, 0, -1):
        left, right = (round(r * 2**shift) for r in ratios)
        most = left * a.furthest + right * b.furthest + (1 << (shift - 1))
        if max(left, right) <= MAX_SUM_MULTIPLIER if bytes_only else most < 2**31:
            return left, right, shift
    raise ValueError(f"scales {a.scale} and {b.scale} are too large for the output's {output.scale}")
