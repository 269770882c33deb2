"""Converts values to the dtype of an input, unless information would be lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ConversionError(ValueError):
    """Values don't fit the dtype. The message continues a sentence that begins with the input: "holds 300, ..."."""


def may_convert(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Return whether values of one dtype can be converted to another at all: integers to numbers, floats to floats."""
    return given == wanted or (given.kind in "biu" and wanted.kind in "biuf") or given.kind == wanted.kind == "f"


def convert(values: Array, wanted: np.dtype[Any]) -> Array:
    """Return values, converted to a dtype; values that have it already are returned as they are.

    Floats are rounded to the nearest: NumPy makes float64 by default, although models were trained in less. Integers
    must keep their values exactly.

    Args:
        values: of a dtype for which `may_convert` is true.
        wanted: the dtype.

    Raises:
        ConversionError: a finite value is too large, or an integer can't be represented.
    """
    if values.dtype == wanted:
        return values
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            result = values.astype(wanted)
        lost = np.isinf(result) & np.isfinite(values)
        if lost.any():
            raise ConversionError(f"holds {values[lost].flat[0]:g}, which is too large for {wanted}")
        return result
    smallest, largest = _range(wanted)
    # NumPy's integers of different widths may not compare correctly; Python's do.
    for value in (int(values.min()), int(values.max())) if values.size else ():
        if not smallest <= value <= largest:
            raise ConversionError(f"holds {value}; {wanted} holds integers from {smallest} to {largest}")
    return values.astype(wanted)


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the smallest and the largest integer of the range in which a dtype represents every integer."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        limit = 2 ** (int(np.finfo(dtype).nmant) + 1)
        return -limit, limit
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
