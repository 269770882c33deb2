"""All perfect matchings of a window's inputs, in a sequence that everything else knows only by their numbers.

A matching is written as an order of the inputs: pair after pair, the lowest input that is left, then its partner. The
partner's *rank* is how many of the inputs that are left are lower. There are 15 ranks for the first pair, 13 for the
second one, and so on, and ranks are the digits of a number in that mixed radix. Numbers that follow each other would
stand for matchings that are nearly the same; so the sequence takes them by strides of `STRIDE`, which has no divisor in
common with `COUNT`. If few inputs may not meet, one of its first matchings then mostly avoids all of these pairs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

INPUTS = 16
"""Inputs that are matched."""

RADIXES = tuple(range(INPUTS - 1, 0, -2))
"""How many partners each pair's first input has left."""

COUNT = math.prod(RADIXES)
"""Of all matchings."""

STRIDE = 1200943
"""Of a hundred random ones, the one that gave the lowest numbers for ResNet-50's and EfficientNet-Lite0's weights."""

_PLACES = np.array([math.prod(RADIXES[:i]) for i in range(len(RADIXES))])
"""What a digit counts."""


def orders(numbers: Array) -> Array:
    """Return matchings by their numbers: [n, INPUTS] uint8 of [n] int, below `COUNT`."""
    digits = numbers[:, np.newaxis] * STRIDE % COUNT // _PLACES % RADIXES
    left = np.tile(np.arange(INPUTS, dtype="uint8"), (len(numbers), 1))
    order = np.empty_like(left)
    for i in range(len(RADIXES)):
        partner = digits[:, i, np.newaxis] + 1
        order[:, 2 * i] = left[:, 0]
        order[:, 2 * i + 1] = np.take_along_axis(left, partner, axis=1)[:, 0]
        remain = (np.arange(left.shape[1]) != 0) & (np.arange(left.shape[1]) != partner)
        left = left[remain].reshape(len(numbers), -1)
    return order


def numbers_of(matchings: Array) -> Array:
    """Return the numbers of matchings: [n] int64 of [n, INPUTS] uint8."""
    pairs = matchings.reshape(-1, len(RADIXES), 2).astype("int16")
    second = pairs[:, :, 1]
    # Of all inputs below a pair's second one, those in the pairs before it and its own first one aren't left.
    taken = [(pairs[:, : i + 1] < second[:, i, np.newaxis, np.newaxis]).sum(axis=(1, 2)) for i in range(len(RADIXES))]
    digits = second - np.stack(taken, axis=1)
    return np.asarray((digits * _PLACES).sum(axis=1) * pow(STRIDE, -1, COUNT) % COUNT)


def are_matchings(bytes_: Array) -> Array:
    """Return which bytes are a matching: [n] bool of [n, INPUTS] uint8."""
    first, second = bytes_[:, 0::2], bytes_[:, 1::2]
    once = (np.sort(bytes_, axis=1) == np.arange(INPUTS)).all(axis=1)
    ascending = (np.diff(first.astype("int16"), axis=1) > 0).all(axis=1)
    return np.asarray(once & ascending & (first < second).all(axis=1))
