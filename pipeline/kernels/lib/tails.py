"""What doesn't divide evenly: the last piece overlaps the one before, so that every piece is whole and none is masked.

    10 values in pieces of 4:    0 1 2 3   4 5 6 7   6 7 8 9

Values that are computed twice get the same result twice. Where a sum would count them twice, `fresh` says which values
of a piece are new.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T


def start(piece: Any, size: int, total: int) -> Any:
    """Return where a piece begins; at 0, if there is only one and it is longer than `total`.

    Args:
        piece: its number, an integer or a TIR expression.
        size: values in each piece.
        total: values in all.
    """
    last = max(total - size, 0)
    return min(piece * size, last) if isinstance(piece, int) else T.min(piece * size, last)


def starts(size: int, total: int, last: int = 1) -> npt.NDArray[np.int64]:
    """Return where each piece begins: [pieces].

    Args:
        size: values in each piece.
        total: values in all.
        last: how many pieces end where all values do, one behind the other; the first of them overlaps.
    """
    number = np.arange(-(-total // size))
    left = number - len(number)
    return np.where(left >= -last, np.maximum(total + left * size, 0), number * size)


def fresh(size: int, total: int, last: int = 1) -> npt.NDArray[np.bool_]:
    """Return which values of each piece exist, and are in none before it: [pieces, size]; see `starts`."""
    first = starts(size, total, last)
    index = first[:, np.newaxis] + np.arange(size)
    behind = np.concatenate([[0], first[:-1] + size])
    return (index >= behind[:, np.newaxis]) & (index < total)
