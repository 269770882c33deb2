"""Winograd's F(4x4, 3x3) in integers: 16 outputs of a 3x3 convolution by 36 products in place of 144.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). In one dimension, 4 outputs of a kernel
of 3 are `A^T ((G g) * (B^T d))`, for 6 inputs d and 3 weights g, which come from polynomials at the points 0, 1, -1, 2,
-2 and infinity. G's rows have denominators, 4, -6, -6, 24, 24 and 1. Here, G is without them, and A times 24 over them,
so that all is integer, and outputs are 24 times the sums that they stand for; in two dimensions, 24 * 24 = 576 times.

What the values may be:

    inputs      signed bytes times at most 10 * 10 = 100    12,800: int16
    weights     signed bytes times at most 7 * 7 = 49        6,272: int16
    products    sums of any number of them                  int32, modulo 2**32
    outputs     576 times the sum, modulo 2**32

That intermediate values overflow does no harm, as all that follows is addition and multiplication modulo 2**32. In this
arithmetic, 9 has an inverse, so that 576 = 9 * 64 times a sum becomes 64 times the sum; if that fits int32, a shift
gives the sum itself.

These functions take anything that can be added, subtracted and multiplied by integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TILE = 4
"""Outputs of a tile along each dimension."""

KERNEL = 3
"""Weights along each dimension."""

WINDOW = TILE + KERNEL - 1
"""Inputs of a tile along each dimension."""

POSITIONS = WINDOW * WINDOW
"""Products of a tile, for each input and output channel."""

INVERSE_OF_NINE = 0x38E38E39
"""`9 * INVERSE_OF_NINE` is 1 modulo 2**32."""

SHIFT = 6
"""Sums are shifted by so many bits; 2**SHIFT * 9 is 576."""

Transform = Callable[[Sequence[Any]], list[Any]]


def transform_input(d: Sequence[Any]) -> list[Any]:
    """Return `B^T d` for 6 inputs d."""
    p, q = d[4] - d[2] * 4, d[3] - d[1] * 4
    s, t = d[4] - d[2], (d[3] - d[1]) * 2
    return [(d[0] - d[2]) * 4 + s, p + q, p - q, s + t, s - t, d[5] - d[3] - t * 2]


def transform_weights(g: Sequence[Any]) -> list[Any]:
    """Return `G g`, each row times its denominator, for 3 weights g."""
    s, t, u = g[0] + g[2], g[0] + g[2] * 4, g[1] * 2
    return [g[0], s + g[1], s - g[1], t + u, t - u, g[2]]


def transform_output(m: Sequence[Any]) -> list[Any]:
    """Return `24 A^T m`, over G's denominators, for 6 products m."""
    s, d = m[1] + m[2], m[1] - m[2]
    t, e = m[3] + m[4], m[3] - m[4]
    return [
        m[0] * 6 + (t - s * 4),
        (e - d * 2) * 2,
        (t - s) * 4,
        (e * 2 - d + m[5] * 6) * 4,
    ]


def in_both_dimensions(transform: Transform, values: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return a matrix that is transformed column by column, then row by row."""
    columns = [transform(column) for column in zip(*values, strict=True)]
    return [transform(row) for row in zip(*columns, strict=True)]
