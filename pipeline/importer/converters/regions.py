"""RoiAlign: regions of images, sampled to one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from pipeline.errors import ModelError
from pipeline.importer.converters.node import Node


def roi_align(node: Node) -> relax.Expr:
    """Bilinear samples within each part of each region: their mean, or the largest."""
    mode = node.text("mode", "avg")
    transform = node.text("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "output_half_pixel")
    if mode not in ("avg", "max") or transform not in ("half_pixel", "output_half_pixel"):
        raise ModelError(f"there is no mode {mode!r} with coordinates {transform!r}")
    if node.dtype != "float32" or node.type(1).dtype != "float32":
        raise ModelError("its image and its regions must be float32")
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
        rows: of parts that a region has, and of the result.
        columns: of parts.
        scale: from a region's coordinates to pixels.
        samples: of a part along each axis; 0 for about one per pixel.
        half_pixel: whether pixels' centres lie at halves.
        largest: whether the result is the largest sample instead of the mean. Of a sample's four weighted neighbours
            the largest counts then, not their sum: so do ONNX's definition and its runtimes.
    """

    rows: int
    columns: int
    scale: float
    samples: int
    half_pixel: bool
    largest: bool

    def compute(self, x: te.Tensor, regions: te.Tensor, images: te.Tensor) -> te.Tensor:
        """Return the samples' means or maxima: [regions, channels, rows, columns]."""
        _, channels, height, width = (int(d) for d in x.shape)
        shape = (int(regions.shape[0]), channels, self.rows, self.columns)

        def geometry(region: Any, axis: int) -> tuple[Any, Any, Any]:
            """Where a region starts along an axis (0: columns), the size of its parts, and samples in each."""
            shift = 0.5 if self.half_pixel else 0.0
            start = regions[region, axis] * _float(self.scale) - _float(shift)
            extent = regions[region, axis + 2] * _float(self.scale) - _float(shift) - start
            extent = extent if self.half_pixel else te.max(extent, _float(1.0))
            part = extent / _float((self.columns, self.rows)[axis])
            count = tirx.const(self.samples, "int32") if self.samples else te.ceil(part).astype("int32")
            return start, part, count

        def sample(region: Any, channel: Any, row: Any, column: Any, down: Any, across: Any) -> list[Any]:
            corners = []
            for axis, place, index, size in ((1, row, down, height), (0, column, across, width)):
                start, part, count = geometry(region, axis)
                p = start + _cast(place) * part + (_cast(index) + _float(0.5)) * part / _cast(count)
                outside = tirx.any(p < _float(-1.0), p > _float(size))
                p = te.min(te.max(p, _float(0.0)), _float(size - 1))
                low = te.min(te.floor(p).astype("int32"), tirx.const(max(size - 2, 0), "int32"))
                high = te.min(low + 1, tirx.const(size - 1, "int32"))
                far = p - _cast(low)
                corners.append((outside, ((low, _float(1.0) - far), (high, far))))
            (above, vertical), (left, horizontal) = corners
            image = images[region].astype("int32")
            beside = tirx.any(above, left)
            return [
                tirx.if_then_else(beside, _float(0.0), x[image, channel, r, c] * (by_row * by_column))
                for r, by_row in vertical
                for c, by_column in horizontal
            ]

        def pooled(region: Any, channel: Any, row: Any, column: Any) -> Any:
            down = te.reduce_axis((0, geometry(region, 1)[2]), name="down")
            across = te.reduce_axis((0, geometry(region, 0)[2]), name="across")
            a, b, c, d = sample(region, channel, row, column, down, across)
            if self.largest:
                return te.max(te.max(te.max(a, b), te.max(c, d)), axis=[down, across])
            return te.sum(a + b + c + d, axis=[down, across])

        reduced = te.compute(shape, pooled, name="samples")

        def finished(region: Any, channel: Any, row: Any, column: Any) -> Any:
            count = geometry(region, 0)[2] * geometry(region, 1)[2]
            value = reduced[region, channel, row, column]
            value = value if self.largest else value / _cast(te.max(count, tirx.const(1, "int32")))
            return tirx.if_then_else(count > 0, value, _float(0.0))

        return te.compute(shape, finished, name="roi_align")


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _cast(value: Any) -> Any:
    return tirx.Cast("float32", value)
