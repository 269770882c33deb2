"""The converter of Resize, for images, signals and volumes.

Nearest-neighbour resizing of images becomes `relax.image.resize2d`, and bilinear interpolation `nn.resize_bilinear`, if
these compute the same; they can be quantized. Everything else is resized axis by axis: nearest neighbours are gathered
by constant indices, and interpolated values are sums of a few such gathers with constant weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import NCHW, NHWC, Array, Node, along, is_float, take
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import make_constant


@dataclass(frozen=True)
class Axis:
    """An axis that is resized.

    Attributes:
        index: the axis' index.
        size: pixels before resizing.
        out: pixels after resizing.
        scale: the factor; as `out` is rounded, not always `out / size`.
        region: begin and end of the region that is resized, as fractions of the axis, for `tf_crop_and_resize`.
    """

    index: int
    size: int
    out: int
    scale: float
    region: tuple[float, float]

    def positions(self, mode: str, dtype: str) -> Array:
        """Return the coordinates of the result's pixels in the input, computed in `dtype`.

        Args:
            mode: ONNX's `coordinate_transformation_mode`.
            dtype: "float32" or "float64".
        """
        y, scale = np.arange(self.out, dtype=dtype), np.asarray(self.scale, dtype)
        half = np.asarray(0.5, dtype)
        if mode == "asymmetric":
            return np.asarray(y / scale)
        if mode == "align_corners":
            last = np.asarray(self.scale * self.size - 1, dtype)
            return np.asarray(y * np.asarray(self.size - 1, dtype) / last) if last > 0 else np.zeros_like(y)
        if mode == "tf_crop_and_resize":
            first, end = (np.asarray(v * (self.size - 1), dtype) for v in self.region)
            if self.out == 1:
                return np.asarray((first + end) * half)[None]
            return np.asarray(first + y * (end - first) / np.asarray(self.out - 1, dtype))
        if mode == "pytorch_half_pixel" and self.out == 1:
            return np.zeros_like(y)
        if mode == "tf_half_pixel_for_nn":
            return np.asarray((y + half) / scale)
        # half_pixel_symmetric distributes what rounding `out` adds or removes to both ends of the axis.
        exact = scale * np.asarray(self.size, dtype)
        symmetric = mode == "half_pixel_symmetric"
        offset = np.asarray(self.size / 2, dtype) * (1 - np.asarray(self.out, dtype) / exact) if symmetric else 0
        return np.asarray(offset + (y + half) / scale - half)


COORDINATE_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)

_NEAREST: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda p: np.ceil(p - np.float32(0.5)),
    "round_prefer_ceil": lambda p: np.floor(p + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(node: Node) -> relax.Expr:
    """Resize with constant scales or sizes."""
    mode, transform = node.text("mode", "nearest"), node.text("coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear", "cubic") or transform not in COORDINATE_MODES:
        raise ModelError(f"there is no mode {mode!r} with coordinates {transform!r}")
    axes = [a for a in _axes(node) if not _unchanged(a)]
    if any(a.out == 0 for a in axes):
        raise ModelError("its result has no elements")
    if transform == "align_corners" and any(not np.isclose(a.scale * a.size, a.out) for a in axes):
        raise ModelError(
            "its scales give sizes that aren't integers, for which runtimes differ on align_corners; export the model "
            "with sizes instead of scales"
        )
    if mode == "nearest":
        return _nearest(node, axes, transform)
    if _is_bilinear(node, mode, axes, transform):
        return _bilinear(node, axes, transform)
    return _interpolated(node, mode, axes, transform)


def _axes(node: Node) -> list[Axis]:
    shape = node.shape
    numbers = [node.normalized_axis(a) for a in node.integers("axes", range(len(shape)))]
    region, scales, sizes = (node.checked_constant(i, "the region, scales and sizes") for i in (1, 2, 3))
    outs = [shape[a] for a in numbers]
    if sizes is not None and sizes.size:
        factors = [float(s) / shape[a] for s, a in zip(sizes, numbers, strict=True)]
        outs = [int(s) for s in sizes]
        policy = node.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(numbers)
            outs = [int(factor * shape[a] + 0.5) for a in numbers]
    elif scales is not None and scales.size:
        factors = [float(s) for s in scales]
        # In float32, as in ONNX Runtime: 10 pixels times 0.7 are 7.
        outs = [int(np.float32(s) * np.float32(shape[a])) for s, a in zip(scales, numbers, strict=True)]
    else:
        raise ModelError("neither scales nor sizes are given")
    count = len(numbers)
    regions = [(0.0, 1.0)] * count
    if region is not None and region.size:
        regions = [(float(region[i]), float(region[count + i])) for i in range(count)]
    values = zip(numbers, outs, factors, regions, strict=True)
    return [Axis(a, shape[a], out, factor, part) for a, out, factor, part in values]


def _unchanged(axis: Axis) -> bool:
    return axis.out == axis.size and bool(np.isclose(axis.scale, 1)) and axis.region == (0.0, 1.0)


def _outside(axis: Axis, transform: str) -> Array:
    """Return which pixels of the result are outside of the image, and get `extrapolation_value`: [out] bool."""
    positions = axis.positions(transform, "float64")
    outside = (positions < 0) | (positions > axis.size - 1)
    return outside if transform == "tf_crop_and_resize" else np.zeros_like(outside)


def _extrapolated(node: Node, y: relax.Expr, axes: list[Axis], transform: str) -> relax.Expr:
    rank = len(node.shape)
    value = make_constant(np.array(node.attributes.get("extrapolation_value", 0.0), node.dtype))
    for axis in axes:
        outside = _outside(axis, transform)
        if outside.any():
            y = node.emit(relax.op.where(make_constant(along(outside, axis.index, rank)), value, y))
    return y


def _nearest(node: Node, axes: list[Axis], transform: str) -> relax.Expr:
    rounding = _NEAREST.get(node.text("nearest_mode", "round_prefer_floor"))
    if rounding is None:
        raise ModelError(f"there is no nearest_mode {node.text('nearest_mode', '')!r}")
    # In float32, as in ONNX Runtime, so that positions half-way between two pixels are rounded in the same way.
    chosen = {a: np.clip(rounding(a.positions(transform, "float32")), 0, a.size - 1).astype("int64") for a in axes}
    y: relax.Expr = node.x
    if all(not _outside(a, transform).any() for a in axes):
        image = _as_image_operator(node, chosen)
        if image is not None:
            return image
    for axis, indices in chosen.items():
        y = node.emit(take(y, indices, axis.index))
    return _extrapolated(node, y, axes, transform)


_IMAGE_FORMS = (
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("half_pixel", "floor"),
    ("asymmetric", "ceil"),
    ("asymmetric", "round_prefer_floor"),
    ("asymmetric", "round_prefer_ceil"),
)


def _as_image_operator(node: Node, chosen: dict[Axis, Array]) -> relax.Expr | None:
    """Return `image.resize2d` of an image's height and width; None if it would choose other pixels.

    That operator computes its indices from the sizes alone, in one of `_IMAGE_FORMS`.

    Args:
        node: the node.
        chosen: for each axis, the indices of the pixels: [out] int64.
    """
    first = {(2, 3): 2, (1, 2): 1, (2,): 2, (3,): 2}.get(tuple(sorted(a.index for a in chosen)))
    if first is None or len(node.shape) != 4:
        return None
    for transform, rounding in _IMAGE_FORMS:
        if all(np.array_equal(_image_indices(a, transform, rounding), wanted) for a, wanted in chosen.items()):
            outs = {a.index: a.out for a in chosen}
            size = [outs.get(first + i, node.shape[first + i]) for i in range(2)]
            return relax.op.image.resize2d(
                node.x,
                relax.ShapeExpr(size),
                (0.0, 0.0, 0.0, 0.0),
                "NCHW" if first == 2 else "NHWC",
                "nearest_neighbor",
                transform,
                rounding,
            )
    return None


def _image_indices(axis: Axis, transform: str, rounding: str) -> Array:
    """Return the indices that `image.resize2d` computes: [out] int64."""
    step = np.float32(axis.size) / np.float32(axis.out)
    y = np.arange(axis.out, dtype="float32")
    positions = y * step if transform == "asymmetric" else (y + np.float32(0.5)) * step - np.float32(0.5)
    margin = {"floor": np.float32(1e-5), "ceil": np.float32(-1e-5)}.get(rounding, np.float32(0))
    return np.asarray(np.clip(_NEAREST[rounding](positions + margin), 0, axis.size - 1), "int64")


def _is_bilinear(node: Node, mode: str, axes: list[Axis], transform: str) -> bool:
    indices, rank = {a.index for a in axes}, len(node.shape)
    positions = [indices <= {2, 3} and rank == 4, indices <= {1, 2} and rank == 4, indices <= {2} and rank == 3]
    inside = all(not _outside(a, transform).any() for a in axes)
    return mode == "linear" and any(positions) and inside and not node.flag("antialias") and node.dtype == "float32"


def _bilinear(node: Node, axes: list[Axis], transform: str) -> relax.Expr:
    """Return `nn.resize_bilinear` of an image, or of a signal as an image of height 1."""
    x, rank = node.x, len(node.shape)
    found = {a.index: a for a in axes}
    if rank == 3:
        x, found = node.emit(relax.op.expand_dims(x, 2)), {a.index + 1: a for a in axes}
    channels_last = 1 in found
    shape, first = tensor_type(x).shape, 1 if channels_last else 2
    size, starts, steps = [], [], []
    for index in (first, first + 1):
        axis = found.get(index)
        positions = np.arange(shape[index], dtype="float64") if axis is None else axis.positions(transform, "float64")
        size.append(len(positions))
        starts.append(float(positions[0]))
        steps.append(float(positions[-1] - positions[0]) / (len(positions) - 1) if len(positions) > 1 else 1.0)
    operator = ops.ResizeBilinear((size[0], size[1]), (starts[0], starts[1]), (steps[0], steps[1]))
    if channels_last:
        return make_call(operator, x)
    y = node.emit(make_call(operator, node.emit(relax.op.permute_dims(x, NHWC))))
    y = node.emit(relax.op.permute_dims(y, NCHW))
    return relax.op.squeeze(y, [2]) if rank == 3 else y


def _interpolated(node: Node, mode: str, axes: list[Axis], transform: str) -> relax.Expr:
    y, dtype = node.x, node.dtype
    if dtype != "float32":
        y = node.emit(relax.op.astype(y, "float32"))
    for axis in axes:
        y = _mixed_along(node, y, axis, *_taps(node, mode, axis, transform))
    if dtype != "float32":
        y = _rounded(node, y, dtype)
    return _extrapolated(node, y, axes, transform)


_MAX_TAPS = 8
"""With more weights for each pixel, an axis is resized by a matrix product."""


def _mixed_along(node: Node, y: relax.Expr, axis: Axis, indices: Array, weights: Array) -> relax.Expr:
    """Interpolate along an axis by a weighted sum of gathered pixels, or, with many weights, by a matrix product.

    Args:
        node: the node.
        y: the tensor.
        axis: the axis.
        indices: indices of the pixels that each pixel of the result is interpolated from: [out, taps].
        weights: weights of these pixels: [out, taps].
    """
    rank = len(tensor_type(y).shape)
    if weights.shape[1] > _MAX_TAPS:
        matrix = np.zeros((axis.out, axis.size))
        np.add.at(matrix, (np.arange(axis.out)[:, None], indices), weights)
        moved = [a for a in range(rank) if a != axis.index] + [axis.index]
        rows = node.emit(relax.op.permute_dims(y, moved))
        product = node.emit(relax.op.matmul(rows, make_constant(matrix.T.astype("float32"))))
        return node.emit(relax.op.permute_dims(product, [int(i) for i in np.argsort(moved)]))
    total: relax.Expr | None = None
    for k in range(weights.shape[1]):
        if not weights[:, k].any():
            continue
        weight = make_constant(along(weights[:, k].astype("float32"), axis.index, rank))
        part = node.emit(relax.op.multiply(node.emit(take(y, indices[:, k], axis.index)), weight))
        total = part if total is None else node.emit(relax.op.add(total, part))
    if total is None:
        raise AssertionError("the weights of a pixel have the sum 1")
    return total


def _taps(node: Node, mode: str, axis: Axis, transform: str) -> tuple[Array, Array]:
    """Return the indices and weights of the pixels that each pixel of the result is interpolated from: [out, taps]."""
    narrow = min(axis.scale, 1.0) if node.flag("antialias") else 1.0
    positions = axis.positions(transform, "float64")
    # The pixel before the position, even if the position is exactly that of a pixel.
    before = np.ceil(positions).astype("int64") - 1
    reach = 1 if mode == "linear" else 2
    first = int(np.floor(-reach / narrow)) + 1
    offsets = np.arange(first, 2 - first)
    indices = before[:, None] + offsets
    distances = (indices - positions[:, None]) * narrow
    weights = (
        _cubic(distances, float(node.attributes.get("cubic_coeff_a", -0.75)))
        if mode == "cubic"
        else (np.clip(1 - np.abs(distances), 0, None))
    )
    if node.flag("exclude_outside"):
        weights = np.where((indices < 0) | (indices >= axis.size), 0, weights)
    sums = weights.sum(axis=1, keepdims=True)
    return np.clip(indices, 0, axis.size - 1), weights / np.where(sums == 0, 1, sums)


def _cubic(distances: Array, a: float) -> Array:
    d = np.abs(distances)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _rounded(node: Node, y: relax.Expr, dtype: str) -> relax.Expr:
    if not is_float(dtype):
        limits = np.iinfo(dtype)
        y = node.emit(relax.op.clip(node.emit(relax.op.round(y)), float(limits.min), float(limits.max)))
    return node.emit(relax.op.astype(y, dtype))
