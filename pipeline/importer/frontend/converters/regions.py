"""Converters of operators on regions of images: RoiAlign, and the grids of spatial transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import Node
from pipeline.ir.dataflow import make_constant

MAX_SAMPLES = 256
"""Largest sampling ratio: samples of each part of a region, along each axis."""

Neighbours = tuple[tuple[Any, Any], tuple[Any, Any]]
"""Two neighbouring pixels along an axis, each with its index and its weight."""


def affine_grid(node: Node) -> relax.Expr:
    """AffineGrid for a constant size: the normalized coordinates (-1 to 1) of all pixels, transformed."""
    wanted = node.checked_constant(1, "the size of the result")
    if wanted is None or len(wanted) not in (4, 5):
        raise ModelError("the size of its result must have 4 or 5 dimensions")
    batch, _, *sizes = (int(size) for size in wanted)
    corners = node.flag("align_corners")
    # An axis of one pixel has only one corner, at -1.
    steps = [2 / max(size - 1, 1) if corners else 2 / size for size in sizes]
    lines = [-1 + step * (np.arange(size) + (0 if corners else 0.5)) for size, step in zip(sizes, steps, strict=True)]
    # Homogeneous coordinates: the width comes first, and a 1 for the translation last.
    positions = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(sizes)], axis=-1)
    rows = make_constant(positions.reshape(-1, len(sizes) + 1).astype(node.dtype))
    transforms = node.emit(relax.op.permute_dims(node.x, [0, 2, 1]))
    moved = node.emit(relax.op.matmul(rows, transforms))
    return relax.op.reshape(moved, [batch, *sizes, len(sizes)])


def roi_align(node: Node) -> relax.Expr:
    """RoiAlign: for each part of each region, the mean or the maximum of bilinear samples."""
    mode = node.text("mode", "avg")
    transform = node.text("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "output_half_pixel")
    if mode not in ("avg", "max") or transform not in ("half_pixel", "output_half_pixel"):
        raise ModelError(f"there is no mode {mode!r} with coordinates {transform!r}")
    if node.dtype != "float32" or node.input_type(1).dtype != "float32":
        raise ModelError("its image and its regions must be float32")
    if node.attributes.get("sampling_ratio", 0) > MAX_SAMPLES:
        raise ModelError(
            f"its sampling_ratio is {node.attributes['sampling_ratio']}; at most {MAX_SAMPLES} is supported"
        )
    if min(node.attributes.get("output_height", 1), node.attributes.get("output_width", 1)) < 1:
        raise ModelError("its output_height and output_width must be at least 1")
    sampling = _Sampling(
        rows=int(node.attributes.get("output_height", 1)),
        columns=int(node.attributes.get("output_width", 1)),
        scale=float(node.attributes.get("spatial_scale", 1.0)),
        samples=int(node.attributes.get("sampling_ratio", 0)),
        half_pixel=transform == "half_pixel",
        largest=mode == "max",
    )
    return node.builder.emit_te(sampling.compute, node.x, node.required(1), node.required(2))


@dataclass(frozen=True)
class _Sampling:
    """How regions are sampled.

    Attributes:
        rows: number of parts of a region along its height, and rows of the result.
        columns: number of parts of a region along its width, and columns of the result.
        scale: factor from a region's coordinates to pixels.
        samples: number of samples of a part along each axis; 0 for about one for each pixel.
        half_pixel: whether coordinates are shifted by half a pixel.
        largest: whether the result is the maximum instead of the mean. As in ONNX's definition and its runtimes, it is
            then the maximum of the samples' four weighted neighbours, which aren't summed.
    """

    rows: int
    columns: int
    scale: float
    samples: int
    half_pixel: bool
    largest: bool

    def compute(self, x: te.Tensor, regions: te.Tensor, images: te.Tensor) -> te.Tensor:
        """Return the means or maxima of samples: [regions, channels, rows, columns].

        Args:
            x: [images, channels, height, width].
            regions: [regions, 4], the corners (x1, y1, x2, y2).
            images: [regions], indices of the images that the regions are in.
        """
        shape = (int(regions.shape[0]), int(x.shape[1]), self.rows, self.columns)

        def pooled(region: Any, channel: Any, row: Any, column: Any) -> Any:
            down = te.reduce_axis((0, self._geometry(regions, region, 1)[2]), name="down")
            across = te.reduce_axis((0, self._geometry(regions, region, 0)[2]), name="across")
            vertical = self._neighbours(regions, region, 1, row, down, int(x.shape[2]))
            horizontal = self._neighbours(regions, region, 0, column, across, int(x.shape[3]))
            a, b, c, d = _weighted_pixels(x, images[region], channel, vertical, horizontal)
            if self.largest:
                return te.max(te.max(te.max(a, b), te.max(c, d)), axis=[down, across])
            return te.sum(a + b + c + d, axis=[down, across])

        reduced = te.compute(shape, pooled, name="samples")

        def finished(region: Any, channel: Any, row: Any, column: Any) -> Any:
            count = self._geometry(regions, region, 0)[2] * self._geometry(regions, region, 1)[2]
            value = reduced[region, channel, row, column]
            value = value if self.largest else value / _cast(te.max(count, tirx.const(1, "int32")))
            return tirx.if_then_else(count > 0, value, _float(0.0))

        return te.compute(shape, finished, name="roi_align")

    def _geometry(self, regions: te.Tensor, region: Any, axis: int) -> tuple[Any, Any, Any]:
        """Return a region's start along an axis (0: x, 1: y), the size of its parts, and the samples in each."""
        shift = 0.5 if self.half_pixel else 0.0
        start = regions[region, axis] * _float(self.scale) - _float(shift)
        extent = regions[region, axis + 2] * _float(self.scale) - _float(shift) - start
        extent = extent if self.half_pixel else te.max(extent, _float(1.0))
        part = extent / _float((self.columns, self.rows)[axis])
        count = tirx.const(self.samples, "int32") if self.samples else te.ceil(part).astype("int32")
        return start, part, count

    def _neighbours(
        self, regions: te.Tensor, region: Any, axis: int, position: Any, index: Any, size: int
    ) -> tuple[Any, Neighbours]:
        """Return whether a sample is outside of the image along an axis, and its two neighbours there.

        Args:
            regions: see `compute`.
            region: index of the region.
            axis: 0 for x, 1 for y.
            position: index of the part along the axis.
            index: index of the sample in its part.
            size: pixels of the image along the axis.
        """
        start, part, count = self._geometry(regions, region, axis)
        p = start + _cast(position) * part + (_cast(index) + _float(0.5)) * part / _cast(count)
        outside = tirx.any(p < _float(-1.0), p > _float(size))
        p = te.min(te.max(p, _float(0.0)), _float(size - 1))
        low = te.min(te.floor(p).astype("int32"), tirx.const(max(size - 2, 0), "int32"))
        high = te.min(low + 1, tirx.const(size - 1, "int32"))
        far = p - _cast(low)
        return outside, ((low, _float(1.0) - far), (high, far))


def _weighted_pixels(
    x: te.Tensor, image: Any, channel: Any, vertical: tuple[Any, Neighbours], horizontal: tuple[Any, Neighbours]
) -> list[Any]:
    """Return the four pixels around a sample, multiplied by their weights in bilinear interpolation."""
    (above, rows), (left, columns) = vertical, horizontal
    # An invalid index must not read outside of x.
    last = tirx.const(int(x.shape[0]) - 1, "int32")
    image = te.max(te.min(image.astype("int32"), last), tirx.const(0, "int32"))
    outside = tirx.any(above, left)
    return [
        tirx.if_then_else(outside, _float(0.0), x[image, channel, r, c] * (by_row * by_column))
        for r, by_row in rows
        for c, by_column in columns
    ]


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _cast(value: Any) -> Any:
    return tirx.Cast("float32", value)
