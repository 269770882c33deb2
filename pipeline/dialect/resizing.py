"""Operators that change an image's size by interpolation."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.dialect.base import Attributes
from pipeline.dialect.types import TensorType


@dataclass(frozen=True)
class ResizeBilinear(Attributes):
    """`nn.resize_bilinear`: an image of another size, each pixel mixed from up to four neighbours, float32.

    Row i of the result lies at `p = min(max(start + i * step, 0), H - 1)` among the rows of x, in float64. With
    `r = min(floor(p), max(H - 2, 0))` and `f = p - r` it is `(1 - f) * x[r] + f * x[r + 1]`; of a single row it is that
    row. Then the same happens to the columns. `size`, `starts` and `steps` are those of (rows, columns).

    x: [N,H,W,C]; result: [N,size[0],size[1],C]; both float32.
    """

    name = "nn.resize_bilinear"
    arguments = ("x",)

    size: tuple[int, int] = (1, 1)
    starts: tuple[float, float] = (0.0, 0.0)
    steps: tuple[float, float] = (1.0, 1.0)

    def infer(self, *inputs: TensorType) -> TensorType:
        """Return the output's type: [N,size[0],size[1],C], same dtype."""
        batch, _, _, channels = inputs[0].shape
        return TensorType((batch, *self.size, channels), inputs[0].dtype)


@dataclass(frozen=True)
class QResizeBilinear(ResizeBilinear):
    """`qnn.resize_bilinear`: as `nn.resize_bilinear` for codes, in integers only.

    With `f = int(rint(256 * f))` the rows are `m = (256 - f) * x[r] + f * x[r + 1]`, and the columns, of these,
    `y = ((256 - f) * m[c] + f * m[c + 1] + (1 << 15)) >> 16`. Scale and zero point stay what they are.

    x: [N,H,W,C]; result: [N,size[0],size[1],C]; both uint8.
    """

    name = "qnn.resize_bilinear"
