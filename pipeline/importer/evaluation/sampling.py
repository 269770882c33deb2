"""GridSample for all positions at once; the reference implementation's own is a loop, and has errors in some modes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""Names of modes before operator set 20, and their new names."""

_A = -0.75
"""Coefficient of the cubic convolution."""


class GridSample(OpRun):
    """GridSample of images, signals and volumes."""

    op_domain = ""

    def _run(
        self, x: Array, grid: Array, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0
    ) -> tuple[Array]:
        sizes = x.shape[2:]
        # Coordinates are given in the opposite order of axes: the last axis first.
        axes = [
            _taps(grid[..., -1 - k].astype("float32"), size, _MODES.get(mode, mode), padding_mode, bool(align_corners))
            for k, size in enumerate(sizes)
        ]
        batch = np.arange(x.shape[0]).reshape(-1, *[1] * len(sizes))
        total = np.zeros((*grid.shape[:-1], x.shape[1]), "float64")
        for chosen in itertools.product(*axes):
            weight = np.prod([w for _, w in chosen], axis=0)
            positions: tuple[Any, ...] = (batch, slice(None), *(i for i, _ in chosen))
            # Pixels of weight 0 don't count even if they are infinite.
            total += np.where(weight[..., None] == 0, 0, x[positions] * weight[..., None])
        return (np.moveaxis(total, -1, 1).astype(x.dtype),)


def _taps(grid: Array, size: int, mode: str, padding: str, corners: bool) -> list[tuple[Array, Array]]:
    """Return the indices and weights of the pixels along an axis from which each position is interpolated."""
    low, high = (np.float32(0), np.float32(size - 1)) if corners else (np.float32(-0.5), np.float32(size - 0.5))
    p = (grid + 1) / 2 * np.float32(size - 1) if corners else ((grid + 1) * np.float32(size) - 1) / 2
    p = np.rint(p) if mode == "nearest" else p
    outside = (p < low) | (p > high)
    if padding == "border" and mode != "cubic":
        p = np.where(outside, np.clip(p, 0, size - 1), p)
    elif padding == "reflection":
        p = _reflected(p, low, high)
    if mode == "nearest":
        taps = [(p.astype("int64"), np.ones(p.shape))]
    else:
        before = np.floor(p).astype("int64")
        reach = range(2) if mode == "linear" else range(-1, 3)
        taps = [(before + k, _weight(np.abs(p.astype("float64") - before - k), mode)) for k in reach]
    found = []
    for index, weight in taps:
        inside = (index >= 0) & (index < size)
        known = weight if padding != "zeros" else np.where(inside, weight, 0)
        pixel = _reflected(index.astype("float32"), low, high).astype("int64") if padding == "reflection" else index
        found.append((np.clip(pixel, 0, size - 1), known))
    return found


def _weight(distance: Array, mode: str) -> Array:
    if mode == "linear":
        return np.asarray(np.clip(1 - distance, 0, None))
    near: Array = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * _A * distance - 4 * _A
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _reflected(p: Array, low: Any, high: Any) -> Array:
    """Return positions reflected at `low` and `high` until they lie between the two."""
    span = high - low
    if span == 0:
        return np.full_like(p, low)
    beyond = np.where(p < low, low - p, p - high)
    turns = np.trunc(beyond / span)
    rest = beyond - turns * span
    from_low = (p < low) == (turns % 2 == 0)
    return np.where((p >= low) & (p <= high), p, np.where(from_low, low + rest, high - rest))
