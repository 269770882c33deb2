"""Elementary functions of float32 vectors, as polynomials; LLVM would call libm for each lane.

They are close to the exact functions (a few units in the last place where they don't vanish), but not exact to the bit:
a target with fused multiply-adds rounds less often. Only float32 operators use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T

from pipeline.kernels.lib.requantize import rounded
from pipeline.kernels.lib.vectors import lanes_of, splat, vector_type

LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts; multiples of the first up to 2**8 are exact."""

EXP_LOWEST, EXP_HIGHEST = -104.0, 89.0
"""Below the first, the result is 0 in float32; above the second, it is infinity."""

LOWEST_NORMAL = -87.0
"""Above the logarithm of the smallest normal float32, so that a rounded exponent still gives a normal one."""

EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""`(exp(r) - 1 - r) / r**2` for |r| <= ln(2) / 2; S. L. Moshier, Cephes (expf)."""

TANH_LIMIT = 7.90531110763549805
TANH_NUMERATOR = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
"""`tanh(x) / x` as a ratio of polynomials of x**2; from Eigen (generic_fast_tanh_float)."""

ERF_LIMIT = 4.0
ERF_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
"""`erf(x) / x` as a ratio of polynomials of x**2; from XLA (ErfImpl32)."""


def exp(x: Any) -> Any:
    """Return e to the power of a float32 vector; NaN stays NaN.

    x = n * ln(2) + r, so that exp(x) = exp(r) * 2**n. 2**n is multiplied in two steps, as n may lie outside the range
    of exponents where the result is nearly infinite, or denormal.
    """
    lanes = lanes_of(x)
    x = limited(x, EXP_LOWEST, EXP_HIGHEST)
    n = rounded(x * _float(LOG2_E, lanes))
    steps = T.cast(n, vector_type("float32", lanes))
    r = x - steps * _float(LN2_HIGH, lanes) - steps * _float(LN2_LOW, lanes)
    value = polynomial(r, EXP_POLYNOMIAL) * r * r + r + _float(1.0, lanes)
    half = T.shift_right(n, splat(T.int32(1), lanes))
    return value * _power_of_two(half) * _power_of_two(n - half)


def exp_of_negative(x: Any) -> Any:
    """Return e to the power of a float32 vector that is at most 0, in fewer steps than `exp`; NaN stays NaN.

    Where the result is denormal, it is 0.
    """
    lanes = lanes_of(x)
    n = rounded(T.Select(x < _float(LOWEST_NORMAL, lanes), _float(LOWEST_NORMAL, lanes), x) * _float(LOG2_E, lanes))
    steps = T.cast(n, vector_type("float32", lanes))
    r = x - steps * _float(LN2_HIGH, lanes) - steps * _float(LN2_LOW, lanes)
    value = (polynomial(r, EXP_POLYNOMIAL) * r * r + r + _float(1.0, lanes)) * _power_of_two(n)
    return T.Select(x < _float(LOWEST_NORMAL, lanes), _float(0.0, lanes), value)


def sigmoid(x: Any) -> Any:
    """Return `1 / (1 + exp(-x))` of a float32 vector."""
    one = _float(1.0, lanes_of(x))
    return one / (one + exp(-x))


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent of a float32 vector."""
    x = limited(x, -TANH_LIMIT, TANH_LIMIT)
    return x * polynomial(x * x, TANH_NUMERATOR) / polynomial(x * x, TANH_DENOMINATOR)


def erf(x: Any) -> Any:
    """Return the error function of a float32 vector."""
    x = limited(x, -ERF_LIMIT, ERF_LIMIT)
    return x * polynomial(x * x, ERF_NUMERATOR) / polynomial(x * x, ERF_DENOMINATOR)


def polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """Return a polynomial's value by Horner's scheme; the coefficient of the highest power comes first."""
    value = _float(coefficients[0], lanes_of(x))
    for coefficient in coefficients[1:]:
        value = value * x + _float(coefficient, lanes_of(x))
    return value


def limited(x: Any, low: float, high: float) -> Any:
    """Return x limited to [low, high]; NaN stays NaN."""
    smallest, largest = _float(low, lanes_of(x)), _float(high, lanes_of(x))
    x = T.Select(x > largest, largest, x)
    return T.Select(x < smallest, smallest, x)


def _power_of_two(n: Any) -> Any:
    """Return 2**n as float32 for an int32 vector of -126 to 127."""
    lanes = lanes_of(n)
    bits = T.shift_left(n + splat(T.int32(127), lanes), splat(T.int32(23), lanes))
    return T.reinterpret(vector_type("float32", lanes), bits)


def _float(value: float, lanes: int) -> Any:
    return splat(T.float32(value), lanes)
