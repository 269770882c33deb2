"""The innermost loops of all products: a register tile's accumulators, and one step of their sums.

    for pixel i of mr:                             unrolled: `depth` values of it, from memory
        for vector v of nv:                        unrolled: accumulator (i, v) += values of i * weights of v

The loop nest around it decides where accumulators are, and where values and weights come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.vectors import span

Register = Callable[[int, int], Any]
"""Returns the index of an accumulator in its buffer for a pixel and a vector of a tile."""


def begin(acc: Any, mr: int, nv: int, register: Register, value: Callable[[int], Any]) -> None:
    """Set a tile's accumulators: those of each vector to the same value."""
    for v in range(nv):
        first = value(v)
        for i in range(mr):
            T.buffer_store(acc, first, [register(i, v)])


def accumulate(
    acc: Any,
    mr: int,
    nv: int,
    register: Register,
    dot: Callable[[Any, Any, Any], Any],
    values: Callable[[int], Any],
    weights: Callable[[int], Any],
) -> None:
    """Add the products of one step to a tile's accumulators.

    Args:
        acc: the buffer of accumulators.
        mr: pixels in the tile.
        nv: vectors in the tile.
        register: where each accumulator is.
        dot: from an accumulator, a pixel's values and a vector of weights to the accumulator.
        values: of a pixel.
        weights: of a vector.
    """
    for i in range(mr):
        x = values(i)
        for v in range(nv):
            at = register(i, v)
            T.buffer_store(acc, dot(acc[at], x, weights(v)), [at])


def step_values(buffer: Any, start: Any, depth: int, length: int) -> Any:
    """Return `depth` values of a buffer; zeros take the place of what lies behind a reduction shorter than that."""
    if length >= depth:
        return buffer[span(start, depth)]
    zeros = [tirx.const(0, str(buffer.dtype))] * (depth - length)
    return T.Shuffle([buffer[start + i] for i in range(length)] + zeros, list(range(depth)))
