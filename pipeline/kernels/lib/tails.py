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


def starts(size: int, total: int) -> npt.NDArray[np.int64]:
    """Return where each piece begins: [pieces]."""
    return np.minimum(np.arange(-(-total // size)) * size, max(total - size, 0))


def fresh(size: int, total: int) -> npt.NDArray[np.bool_]:
    """Return which values of each piece exist, and are in none before it: [pieces, size]."""
    index = starts(size, total)[:, np.newaxis] + np.arange(size)
    return (index >= np.arange(len(index))[:, np.newaxis] * size) & (index < total)
