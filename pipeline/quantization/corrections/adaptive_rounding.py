"""Learns which way to round each weight so that a quadratic error becomes small; see `adaround`.

Products of matrices are sums of fixed-point numbers, so that they are exact and the same on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array

STEPS, WARM_UP = 500, 0.2
"""How many steps learning takes, and in which share of them nothing draws weights to whole numbers yet."""

LEARNING_RATE, FIRST_DECAY, SECOND_DECAY = 0.03, 0.9, 0.999
"""Of Adam: D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015."""

REGULARIZATION, SHARPEST, BLUNTEST = 0.1, 20.0, 2.0
"""How much whole numbers count beside the error, and the regularizer's exponent in the beginning and in the end."""

STRETCH, LOWEST = 1.2, -0.1
"""The rectified sigmoid is `clip(sigmoid(v) * STRETCH + LOWEST, 0, 1)`: zeta is 1.1 and gamma -0.1 in the paper."""

DAMPING = 0.01
"""Share of the mean second moment that is added to all of them, which draws weights to their float values."""

PIECE = 2**16
"""So many weights are learned at a time, which fit a core's cache."""

MOMENT_BITS, WEIGHT_UNIT = 20, 2.0**-16
"""Precision of moments, beside the largest, and of weights less their float values, which are less than 256: with up to
512 products, sums take at most 53 bits."""


@dataclass(frozen=True)
class Objective:
    """Half of the gradient of a layer's mean squared error, besides its mean, is `(q - weight) @ moments - target`.

    Attributes:
        weight: what weights are in float, in steps of their scale: [B,O,K] float64.
        moments: of what the quantized layer multiplies them with, about the mean: [B,K,K] float64, symmetric.
        target: of that, [B,O,K] float64, with what the sums should be besides: see `adaround`.
    """

    weight: Array
    moments: Array
    target: Array

    def normalized(self) -> Objective:
        """Return the objective damped, and divided by each block's mean moment."""
        diagonal = np.einsum("bkk->bk", self.moments)
        mean = diagonal.mean(axis=1)
        moments = self.moments / np.where(mean > 0, mean, 1)[:, None, None]
        places = np.arange(moments.shape[1])
        moments[:, places, places] += np.where(mean > 0, DAMPING, 1)[:, None]
        target = self.target / np.where(mean > 0, mean, 1)[:, None, None]
        return Objective(self.weight, in_bits(moments, MOMENT_BITS, (1, 2)), target)

    def gradient(self, quantized: Array) -> Array:
        """Return half of the gradient: [B,O,K] float64."""
        difference = np.rint((quantized - self.weight) / WEIGHT_UNIT) * WEIGHT_UNIT
        return np.asarray(difference @ self.moments - self.target)

    def pieces(self) -> Iterator[tuple[tuple[slice, slice], Objective]]:
        """Yield parts of some blocks and some of their channels, each with the objective of these."""
        blocks, channels, columns = self.weight.shape
        wide = min(channels, max(1, PIECE // columns))
        high = max(1, PIECE // (wide * columns))
        for first in range(0, blocks, high):
            for row in range(0, channels, wide):
                place = slice(first, first + high), slice(row, row + wide)
                yield place, Objective(self.weight[place], self.moments[place[0]], self.target[place])


def in_bits(values: Array, bits: int, axes: tuple[int, ...] | None = None) -> Array:
    """Return values rounded so that they are multiples of a power of two, and less than 2**bits times that.

    Args:
        values: float64.
        bits: how many.
        axes: along which the power is the same; None means all.
    """
    _, exponents = np.frexp(np.abs(values).max(axis=axes, keepdims=True, initial=0))
    unit = np.ldexp(1.0, exponents - bits)
    return np.asarray(np.rint(values / unit) * unit)


def learned_rounding(objective: Objective, start: Array, largest: int = 127) -> Array:
    """Return weights of which each is what is given, or the next whole number towards its float value.

    Args:
        objective: the error that is to become small.
        start: [B,O,K] float64, whole numbers; those of the largest magnitude stay.
        largest: that magnitude.

    Returns:
        [B,O,K] float64: whole numbers in [-largest, largest].
    """
    result = np.empty_like(start)
    for place, part in objective.normalized().pieces():
        result[place] = _learned(part, start[place], largest)
    return result


def _learned(objective: Objective, start: Array, largest: int) -> Array:
    """See `learned_rounding`; all weights are learned together."""
    below = np.where(objective.weight >= start, start, start - 1)
    share = (np.clip(objective.weight - below, 0.01, 0.99) - LOWEST) / STRETCH
    learned = np.log(share / (1 - share)).astype("float32")
    mean, square = np.zeros_like(learned), np.zeros_like(learned)
    for step in range(STEPS):
        sigmoid = 1 / (1 + np.exp(-learned))
        stretched = sigmoid * np.float32(STRETCH) + np.float32(LOWEST)
        up = np.clip(stretched, 0, 1)
        slope = np.where(up == stretched, sigmoid * (1 - sigmoid) * np.float32(STRETCH), 0)
        gradient = 2 * objective.gradient(below + up).astype("float32")
        gradient = (gradient + _regularizer_slope(up, step / STEPS)) * slope
        mean += (gradient - mean) * np.float32(1 - FIRST_DECAY)
        square += (gradient * gradient - square) * np.float32(1 - SECOND_DECAY)
        rate = LEARNING_RATE * np.sqrt(1 - SECOND_DECAY ** (step + 1)) / (1 - FIRST_DECAY ** (step + 1))
        learned -= np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))
    return np.where(np.abs(start) < largest, np.clip(below + (learned >= 0), -largest, largest), start)


def _regularizer_slope(up: Array, progress: float) -> Array:
    """Return the derivative of `REGULARIZATION * (1 - abs(2 * up - 1)**b)`, in which b falls as learning goes on."""
    if progress < WARM_UP:
        return np.zeros_like(up)
    falling = (1 + np.cos(np.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
    exponent = np.float32(BLUNTEST + (SHARPEST - BLUNTEST) * falling)
    off = 2 * up - 1
    power = np.power(np.abs(off), exponent - 1)
    return np.asarray(np.float32(-2 * REGULARIZATION) * exponent * power * np.sign(off))
