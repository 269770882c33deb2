"""Resizing of images, and concatenation of resized images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.ir.operator import Array, Operator
from pipeline.ir.types import TensorType
from pipeline.ops.arrays import NO_SIDES, Sides
from pipeline.ops.bases import WithHalo


@dataclass(frozen=True)
class ResizeBilinear(Operator):
    """`nn.resize_bilinear`: bilinear resizing of an image, float32.

    Row i of the result is taken at position `p = min(max(start + i * step, 0), H - 1)` of x, in float64. With
    `r = min(floor(p), max(H - 2, 0))` and `f = p - r` it is `(1 - f) * x[r] + f * x[r + 1]`; if x has only one row, it
    is that row. Columns are resized in the same way. `size`, `starts` and `steps` are pairs for (rows, columns).

    x: [N,H,W,C]; result: [N,size[0],size[1],C]; both float32.
    """

    name = "nn.resize_bilinear"
    arguments = ("x",)
    moves_values = True
    image_by_image = True

    size: tuple[int, int] = (1, 1)
    starts: tuple[float, float] = (0.0, 0.0)
    steps: tuple[float, float] = (1.0, 1.0)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [N,size[0],size[1],C], same dtype."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *self.size, channels), inputs[0].dtype)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound: interpolated values lie between values of x."""
        return bounds[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the resized image, computed in float64."""
        y = arguments[0].astype("float64")
        for axis in (1, 2):
            first, second, fraction = self._neighbours(y.shape[axis], axis)
            y = np.take(y, first, axis) * (1 - fraction) + np.take(y, second, axis) * fraction
        return np.asarray(y.astype("float32"))

    def _neighbours(self, size: int, axis: int) -> tuple[Array, Array, Array]:
        """Return the indices of the two neighbours of each pixel along an axis, and the second neighbour's weight.

        Args:
            size: pixels of the axis before resizing.
            axis: 1 for rows, 2 for columns.

        Returns:
            Two arrays [OUT] of indices, and an array of weights that is broadcast along the axis of [N,H,W,C].
        """
        out, start, step = self.size[axis - 1], self.starts[axis - 1], self.steps[axis - 1]
        positions = np.clip(start + np.arange(out) * step, 0, size - 1)
        first = np.minimum(positions.astype("int64"), max(size - 2, 0))
        fraction = (positions - first).reshape((1,) * axis + (-1,) + (1,) * (3 - axis))
        return first, np.minimum(first + 1, size - 1), fraction


@dataclass(frozen=True)
class QResizeBilinear(ResizeBilinear):
    """`qnn.resize_bilinear`: `nn.resize_bilinear` of quantized values, in integers only.

    With r, c and f as in `nn.resize_bilinear` for rows and for columns, and `g = int(rint(256 * f))`, rows are resized
    by `m = (256 - g) * x[r] + g * x[r + 1]`, then columns by
    `y = ((256 - g) * m[c] + g * m[c + 1] + (1 << 15)) >> 16`. Scale and zero point are those of x.

    x: [N,H,W,C]; result: [N,size[0],size[1],C]; both uint8 or int16, whose sums just fit int32.
    """

    name = "qnn.resize_bilinear"

    def evaluate(self, *arguments: Array) -> Array:
        """Return the resized image."""
        y = arguments[0].astype("int64")
        for axis in (1, 2):
            first, second, fraction = self._neighbours(y.shape[axis], axis)
            weight = np.rint(256 * fraction).astype("int64")
            y = np.take(y, first, axis) * (256 - weight) + np.take(y, second, axis) * weight
        return np.asarray(((y + (1 << 15)) >> 16).astype(arguments[0].dtype))


@dataclass(frozen=True)
class UpsampleConcat(WithHalo):
    """`nn.upsample_concat`: images, each enlarged by whole factors, concatenated along channels; float32 or uint8.

    `y[n, h, w, first_i + c] = x_i[n, h // factors[2*i], w // factors[2*i+1], c]`, where first_i is the number of
    channels of all images before x_i. The compiler makes it from concatenations and nearest-neighbour resizing.

    x_i: [N,H/factors[2*i],W/factors[2*i+1],C_i]; result: [N,H,W,C_0+C_1+...], same dtype; with a `halo`, see
    `WithHalo`, [N,top+H+bottom,left+W+right,C_0+C_1+...].
    """

    name = "nn.upsample_concat"
    arguments = ("x",)

    factors: tuple[int, ...] = (1, 1)
    halo: Sides = NO_SIDES
    halo_value: float = 0.0

    @property
    def arity(self) -> int:
        """Number of images, the tensor arguments."""
        return len(self.factors) // 2

    @property
    def scales(self) -> tuple[tuple[int, int], ...]:
        """Factors (vertical, horizontal) by which each image is enlarged."""
        return tuple(zip(self.factors[::2], self.factors[1::2], strict=True))

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the result's type: [N,H,W,C_0+C_1+...], plus the halo, same dtype."""
        sizes = {
            (x.shape[0], x.shape[1] * rows, x.shape[2] * columns, x.dtype)
            for x, (rows, columns) in zip(inputs, self.scales, strict=True)
        }
        if len(sizes) > 1:
            raise ValueError(f"Enlarged images of different sizes or dtypes can't be concatenated: {sorted(sizes)}")
        batch, height, width, dtype = sizes.pop()
        top, left, bottom, right = self.halo
        channels = sum(x.shape[3] for x in inputs)
        return TensorType((batch, top + height + bottom, left + width + right, channels), dtype)

    def lower_bound(self, *bounds: float) -> float:
        """Return the least of the images' bounds, or the halo's value if that is lower."""
        return self.bound_with_halo(min(bounds))

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether all images are activations."""
        del inputs
        return not constants

    def evaluate(self, *arguments: Array) -> Array:
        """Return the concatenated images, with the halo."""
        scales = zip(arguments, self.scales, strict=True)
        images = [x.repeat(rows, 1).repeat(columns, 2) for x, (rows, columns) in scales]
        return self.add_halo(np.concatenate(images, 3))
