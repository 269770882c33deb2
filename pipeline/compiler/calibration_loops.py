"""What calibration computes of all values of all tensors, and corrections of all weights, compiled for this machine.

Threads may call them at the same time: Python's lock isn't held meanwhile.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

from pipeline.compiler.codegen import in_background
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

_PART = 2**15
"""Values that are worth another thread's while."""


class NotFiniteError(ValueError):
    """A value is NaN or infinite."""


def extent(values: Array) -> tuple[float, float]:
    """Return the least and the largest value; infinity and minus infinity if there are no values.

    Args:
        values: any shape, float32.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    if values.size == 0:
        return math.inf, -math.inf
    ends, magnitude = np.empty((1, 2, LANES), "float32"), np.empty((1, LANES), "int32")
    _loop("extent")(_flat(values), ends, magnitude)
    return _ends(ends, magnitude)


def _flat(values: Array) -> Array:
    """Return values in a row; of less than a vector, some once more."""
    flat = np.ascontiguousarray(values, "float32").reshape(-1)
    return np.resize(flat, LANES) if flat.size < LANES else flat


def _ends(ends: Array, magnitude: Array) -> tuple[float, float]:
    """Return the least and the largest value of [P,2,LANES] ends, of which [P,LANES] are the magnitudes' bits."""
    if magnitude.max() >= _INFINITY:
        raise NotFiniteError("A value is NaN or infinite")
    # Of zeros with both signs, none is the least or the largest.
    return float(ends[:, 0].min() + np.float32(0)), float(ends[:, 1].max() + np.float32(0))


class Counted(NamedTuple):
    """What `histogram` finds.

    Attributes:
        counts: how many values are in each bin, [2 * bins] int64, those below zero first. Those beyond all bins are in
            the first or the last one, and zeros in none.
        zeros: how many values are zero.
        least: the least value.
        largest: the largest value.
    """

    counts: Array
    zeros: int
    least: float
    largest: float


def histogram(values: Array, scale: float, bins: int) -> Counted:
    """Return how many values are in each of equal bins on both sides of zero, and their extent.

    A bin holds the end that is nearer to zero. Large tensors are counted by several threads.

    Args:
        values: any shape, float32, not empty.
        scale: bins in a distance of one, a power of two.
        bins: how many on each side of zero.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    use_all_cores()
    parts = max(1, min(values.size // _PART, tvm.runtime.num_threads()))
    counts, partial = np.empty(2 * bins + LANES, "int64"), np.empty((parts, WAYS, 2 * bins + LANES), "int32")
    ends, magnitude = np.empty((parts, 2, LANES), "float32"), np.empty((parts, LANES), "int32")
    _loop("histogram")(_flat(values), partial, counts, ends, magnitude, scale, float(bins), values.size)
    return Counted(counts[: 2 * bins], int(counts[2 * bins :].sum()), *_ends(ends, magnitude))


def channel_sums(values: Array) -> Array:
    """Return the sum of each channel, the last axis, of float32 values of any shape: [C] float64, added up in order.

    Several threads add up some channels each.
    """
    sums = np.zeros(values.shape[-1])
    if values.size:
        use_all_cores()
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


_OF_VALUES: dict[str, Callable[[], tirx.PrimFunc]] = {
    "extent": extent_loop,
    "histogram": histogram_loop,
    "channel_sums": channel_sums_loop,
}

_OF_WEIGHTS: dict[str, Callable[[], tirx.PrimFunc]] = {"unit_lower": unit_lower_loop, "rounding": rounding_loop}

_lock = threading.Lock()


def compile_ahead() -> None:
    """Begin to compile, in the background, the functions that look at values: calibration needs them soon."""
    in_background(lambda: _loop("histogram"))


def _loop(name: str) -> tvm.runtime.Function:
    # Several threads need their first loop at the same time.
    with _lock:
        return _compiled(of_values=name in _OF_VALUES)[name]


@functools.cache
def _compiled(*, of_values: bool) -> dict[str, tvm.runtime.Function]:
    loops = _OF_VALUES if of_values else _OF_WEIGHTS
    module = compile_functions({name: loop() for name, loop in loops.items()}, load_target("host").tvm_target())
    return {name: module[name] for name in loops}
