"""Resize in all its forms, axis by axis; the reference implementation's own lacks some, has errors, and is slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Axis:
    """An axis of `size` pixels, resized by the factor `scale` to `count` pixels.

    `begin` and `end` are the ends of the region of interest, as fractions of the axis.
    """

    size: int
    count: int
    scale: Any
    begin: Any
    end: Any


class Resize(OpRun):
    """Resize with coordinates in float32, as in ONNX Runtime: rounding decides which of two pixels is the nearest."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array]:
        numbers = [int(a) % x.ndim for a in (attributes.get("axes") or range(x.ndim))]
        axes = _axes([x.shape[a] for a in numbers], roi, scales, sizes, attributes.get("keep_aspect_ratio_policy"))
        mode, transform = attributes["mode"], attributes["coordinate_transformation_mode"]
        y = x if mode == "nearest" else x.astype("float64")
        outside = np.zeros([1] * x.ndim, "bool")
        for number, axis in zip(numbers, axes, strict=True):
            positions = _POSITIONS[transform](np.arange(axis.count, dtype="float32"), axis)
            if transform == "tf_crop_and_resize":
                beyond = (positions < 0) | (positions > axis.size - 1)
                outside = outside | np.expand_dims(beyond, [a for a in range(x.ndim) if a != number])
            elif axis.count == axis.size and axis.scale == 1:
                continue
            if mode == "nearest":
                nearest = _ROUNDINGS[attributes["nearest_mode"]](positions)
                y = y.take(np.clip(nearest.astype("int64"), 0, axis.size - 1), number)
            else:
                y = np.moveaxis(np.moveaxis(y, number, -1) @ _weights(positions, axis, attributes).T, -1, number)
        if x.dtype.kind in "iu" and mode != "nearest":
            limits = np.iinfo(x.dtype)
            y = np.clip(np.round(y), limits.min, limits.max)
        return (np.where(outside, attributes.get("extrapolation_value") or 0, y).astype(x.dtype),)


def _axes(
    shape: list[int], roi: Array | None, scales: Array | None, sizes: Array | None, policy: str | None
) -> list[_Axis]:
    count = len(shape)
    region = np.repeat(np.array([0, 1], "float32"), count) if roi is None or not roi.size else roi
    if sizes is not None and sizes.size:
        factors = [np.float32(s / size) for s, size in zip(sizes, shape, strict=True)]
        counts = [int(s) for s in sizes]
        if policy not in (None, "stretch"):
            factors = [min(factors) if policy == "not_larger" else max(factors)] * count
            counts = [int(np.floor(size * f + np.float32(0.5))) for size, f in zip(shape, factors, strict=True)]
    else:
        factors = [np.float32(s) for s in scales] if scales is not None and scales.size else [np.float32(1)] * count
        counts = [int(np.float32(size) * f) for size, f in zip(shape, factors, strict=True)]
    return [_Axis(shape[k], counts[k], factors[k], region[k], region[count + k]) for k in range(count)]


def _half_pixel(index: Array, axis: _Axis) -> Array:
    return np.asarray((index + np.float32(0.5)) / axis.scale - np.float32(0.5))


def _half_pixel_symmetric(index: Array, axis: _Axis) -> Array:
    exact = np.float32(axis.size) * axis.scale
    offset = np.float32(axis.size / 2) * (1 - np.float32(axis.count) / exact)
    return np.asarray(offset + (index + np.float32(0.5)) / axis.scale - np.float32(0.5))


def _pytorch_half_pixel(index: Array, axis: _Axis) -> Array:
    return _half_pixel(index, axis) if axis.count > 1 else np.zeros_like(index)


def _align_corners(index: Array, axis: _Axis) -> Array:
    last = np.float32(axis.size) * axis.scale - 1
    return np.asarray(index * np.float32(axis.size - 1) / last) if axis.count > 1 else np.zeros_like(index)


def _crop(index: Array, axis: _Axis) -> Array:
    last = np.float32(axis.size - 1)
    if axis.count == 1:
        return np.full_like(index, (axis.begin + axis.end) * last / 2)
    return np.asarray(axis.begin * last + index * (axis.end - axis.begin) * last / np.float32(axis.count - 1))


_POSITIONS: Mapping[str, Callable[[Array, _Axis], Array]] = {
    "align_corners": _align_corners,
    "asymmetric": lambda index, axis: np.asarray(index / axis.scale),
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "tf_crop_and_resize": _crop,
    "tf_half_pixel_for_nn": lambda index, axis: np.asarray((index + np.float32(0.5)) / axis.scale),
}

_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda positions: np.ceil(positions - np.float32(0.5)),
    "round_prefer_ceil": lambda positions: np.floor(positions + np.float32(0.5)),
}


def _weights(positions: Array, axis: _Axis, attributes: Mapping[str, Any]) -> Array:
    """Return the weight of each pixel of the axis in each pixel of the result: [count, size]."""
    cubic = attributes["mode"] == "cubic"
    # Antialiasing widens the filter by the factor by which the axis shrinks.
    stretch = min(float(axis.scale), 1.0) if attributes.get("antialias") else 1.0
    reach = int(np.ceil((2 if cubic else 1) / stretch)) + 1
    pixels = np.floor(positions).astype("int64")[:, None] + np.arange(-reach, reach + 1)
    distances = np.abs(pixels - positions[:, None].astype("float64")) * stretch
    a = attributes.get("cubic_coeff_a") or -0.75
    weights = _cubic(distances, a) if cubic else np.clip(1 - distances, 0, None)
    if attributes.get("exclude_outside"):
        weights[(pixels < 0) | (pixels >= axis.size)] = 0
    sums = weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((axis.count, axis.size))
    rows = np.arange(axis.count)[:, None]
    np.add.at(matrix, (rows, np.clip(pixels, 0, axis.size - 1)), weights / np.where(sums == 0, 1, sums))
    return matrix


def _cubic(distances: Array, a: float) -> Array:
    """Return the weights of cubic convolution (Keys, "Cubic convolution interpolation", 1981).

    Args:
        distances: distances of pixels, at least 0.
        a: the coefficient, -0.75 or -0.5 usually.
    """
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = ((distances - 5) * distances + 8) * a * distances - 4 * a
    return np.where(distances <= 1, near, np.where(distances < 2, far, 0))
