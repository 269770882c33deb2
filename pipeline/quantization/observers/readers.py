"""What becomes of a tensor's values where they are read, so that ranges can be chosen by what follows.

A range of a hard-swish's argument needn't reach below -3, where the function is zero anyway, and one of a gate's not
beyond where a sigmoid saturates: what counts is the error of the function's value. So observers are told what each
operator that reads a tensor makes of a value of it, as a function; for operators that combine values, it is the
identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Reader: TypeAlias = Callable[[Array], Array]
"""What an operator makes of each value of a tensor that it reads: float64, of any shape, element by element."""

LARGEST = 1e30
"""Stands for infinite values of functions outside of their domain, as in tables of 8-bit functions."""


def as_it_is(values: Array) -> Array:
    """Return the values: the reader that stands for any operator that combines them."""
    return values


def in_products(values: Array) -> Array:
    """Return the values: the reader that stands for dense layers and matrix products behind a layer normalization."""
    return values


AS_IT_IS: tuple[Reader, ...] = (as_it_is,)
"""The readers of a tensor of which nothing else is known."""


def read(reader: Reader, values: Array) -> Array:
    """Return what a reader makes of values, float64; NaN counts as zero."""
    return np.nan_to_num(reader(values.astype("float64")), nan=0.0, posinf=LARGEST, neginf=-LARGEST)


def are_functions(readers: Sequence[Reader]) -> bool:
    """Return whether all that reads a tensor are functions of single values."""
    return as_it_is not in readers and in_products not in readers
