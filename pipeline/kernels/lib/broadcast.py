"""NumPy broadcasting of two operands, reduced to the fewest loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Axis:
    """One loop of a broadcast operation: its length, and by how many values each operand advances at a step."""

    size: int
    a_stride: int
    b_stride: int


def axes(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return the loops of an operation on shapes `a` and `b`, outermost first; adjacent loops are merged if possible.

    Example: [1,56,56,64] with [1,1,1,64] gives two loops, of 3136 and 64.
    """
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    merged: list[Axis] = []
    a_stride = b_stride = 1
    for x, y in zip(reversed(a), reversed(b), strict=True):
        size = max(x, y)
        if size > 1:
            axis = Axis(size, a_stride if x > 1 else 0, b_stride if y > 1 else 0)
            inner = merged[-1] if merged else None
            if inner is not None and all(
                o == i * inner.size for o, i in ((axis.a_stride, inner.a_stride), (axis.b_stride, inner.b_stride))
            ):
                merged[-1] = Axis(size * inner.size, inner.a_stride, inner.b_stride)
            else:
                merged.append(axis)
        a_stride, b_stride = a_stride * x, b_stride * y
    return tuple(reversed(merged)) or (Axis(1, 1, 1),)


def offsets(outer: tuple[Axis, ...], index: Any) -> tuple[Any, Any]:
    """Return both operands' offsets at step `index` of the loops `outer`, flattened into one."""
    a_offset: Any = 0
    b_offset: Any = 0
    for axis in reversed(outer):
        a_offset = a_offset + index % axis.size * axis.a_stride
        b_offset = b_offset + index % axis.size * axis.b_stride
        index = index // axis.size
    return a_offset, b_offset
