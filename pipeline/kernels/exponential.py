"""The exponential function in float32 arithmetic alone, so that LLVM makes vectors of loops around it.

The C library's would be called for one value after the other.
"""

from __future__ import annotations

import math
from typing import Any

from tvm.script import tirx as T

from pipeline.kernels.requantize import rounded

LARGEST, SMALLEST = 88.72283, -87.33654
"""Beyond these the result is infinity, or too small for a normal number and taken for zero."""

COEFFICIENTS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5, 1.0, 1.0)
"""Of the polynomial for |r| <= ln(2) / 2, highest power first; from S. Moshier's Cephes library, `expf`."""

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln(2) in two parts; products of small integers with the first are exact."""


def exp(x: Any) -> Any:
    """Return e to the power of a float32 TIR expression, one value, to about 1e-7 of itself.

    x is split as k * ln(2) + r; 2**k is a bit pattern, e**r a polynomial.
    """
    limited = T.max(T.min(x, T.float32(LARGEST)), T.float32(SMALLEST))
    k = rounded(limited * T.float32(1 / math.log(2)))
    power = T.cast(k, "float32")
    r = limited - power * T.float32(LN2_HIGH) - power * T.float32(LN2_LOW)
    result = T.float32(COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        result = result * r + T.float32(coefficient)
    # In two steps, as 2**128 is no float32.
    half = T.shift_right(k, T.int32(1))
    result = result * _power_of_two(half) * _power_of_two(k - half)
    result = T.Select(x > T.float32(LARGEST), T.float32(math.inf), result)
    result = T.Select(x < T.float32(SMALLEST), T.float32(0), result)
    return T.Select(T.isnan(x), x, result)


def _power_of_two(exponent: Any) -> Any:
    return T.reinterpret("float32", T.shift_left(exponent + T.int32(127), T.int32(23)))
