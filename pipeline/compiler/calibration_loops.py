"""What calibration computes of all values of all tensors, and corrections of all weights, compiled for this machine.

Threads may call them at the same time: Python's lock isn't held meanwhile.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

from pipeline.compiler.kernel_passes import compile_functions
from pipeline.compiler.threads import use_all_cores
from pipeline.kernels.statistics import (
    LANES,
    WAYS,
    channel_sums_loop,
    extent_loop,
    histogram_loop,
    rounding_loop,
    unit_lower_loop,
)
from pipeline.targets import load_target

Array = npt.NDArray[Any]

_INFINITY = 0x7F800000
"""The bits of infinity, float32; NaN has larger ones."""


def extent(values: Array) -> tuple[float, float]:
    """Return the least and the largest value; infinity and minus infinity if there are no values.

    Args:
        values: any shape, float32.

    Raises:
        ValueError: a value isn't finite.
    """
    flat = np.ascontiguousarray(values, "float32").reshape(-1)
    if flat.size == 0:
        return math.inf, -math.inf
    ends, magnitude = np.empty(2, "float32"), np.empty(1, "int32")
    _loop("extent")(np.resize(flat, LANES) if flat.size < LANES else flat, ends, magnitude)
    if magnitude[0] >= _INFINITY:
        raise ValueError("A value is NaN or infinite")
    # Of zeros with both signs, none is the least or the largest.
    least, largest = (ends + np.float32(0)).tolist()
    return least, largest


def histogram(values: Array, scale: float, bins: int) -> tuple[Array, int]:
    """Return how many values are in each of equal bins on both sides of zero, [2 * bins] int64, and how many are zero.

    A bin holds the end that is nearer to zero; zeros are in the first one above zero.

    Args:
        values: any shape, float32.
        scale: bins in a distance of one, a power of two; `values * scale` is in (-bins, bins), which isn't checked.
        bins: how many on each side of zero.
    """
    counts, zeros = np.zeros((WAYS, 2 * bins), "int32"), np.zeros(LANES, "int32")
    _loop("histogram")(np.ascontiguousarray(values, "float32").reshape(-1), counts, zeros, scale)
    return np.asarray(counts.sum(axis=0, dtype="int64")), int(zeros.sum())


def channel_sums(values: Array) -> Array:
    """Return the sum of each channel, the last axis, of float32 values of any shape: [C] float64, added up in order."""
    sums = np.zeros(values.shape[-1])
    if values.size:
        _loop("channel_sums")(np.ascontiguousarray(values, "float32").reshape(-1, len(sums)), sums)
    return sums


def unit_lower_factor(matrices: Array) -> Array:
    """Return L of H = L D L', unit lower triangular, for positive definite matrices [B,K,K] float64.

    It is the same for any number of threads, which isn't known of LAPACK's.
    """
    lower = np.zeros(matrices.shape)
    use_all_cores()
    _loop("unit_lower")(np.array(matrices, "float64", order="C"), lower)
    return lower


def round_in_order(weights: Array, lower: Array, largest: int) -> Array:
    """Return weights rounded one after another, from the last on, each changing what is wanted of those before it.

    Args:
        weights: [B,O,K] float64 in steps of their scale; those beyond `largest` - 0.5 are rounded to the nearest.
        lower: [B,K,K] float64: by how much of the error of the weight of a row, that of a column is to be larger.
        largest: magnitude of what is returned.

    Returns:
        [B,O,K] float64: whole numbers in [-largest, largest].
    """
    exact, factors = (np.ascontiguousarray(values, "float64") for values in (weights, lower))
    rounded = np.empty(exact.shape)
    use_all_cores()
    _loop("rounding")(exact, factors, exact.copy(), rounded, float(largest))
    return rounded


_lock = threading.Lock()


def _loop(name: str) -> tvm.runtime.Function:
    # Several threads need their first loop at the same time.
    with _lock:
        return (_of_values if name in _OF_VALUES else _of_weights)()[name]


_OF_VALUES = {"extent": extent_loop, "histogram": histogram_loop, "channel_sums": channel_sums_loop}

_OF_WEIGHTS = {"unit_lower": unit_lower_loop, "rounding": rounding_loop}
"""Loops that only some corrections need."""


@functools.cache
def _of_values() -> tvm.runtime.Module:
    return _compiled(_OF_VALUES)


@functools.cache
def _of_weights() -> tvm.runtime.Module:
    return _compiled(_OF_WEIGHTS)


def _compiled(loops: Mapping[str, Callable[[], tirx.PrimFunc]]) -> tvm.runtime.Module:
    functions = {name: loop() for name, loop in loops.items()}
    return compile_functions(functions, load_target("host").tvm_target())
