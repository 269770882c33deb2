"""The halo of padding around images, written row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.lib.loops import Run
from pipeline.kernels.lib.vectors import span, splat


@dataclass(frozen=True)
class Halo:
    """A halo around NHWC images, with the images' sizes.

    Attributes:
        height, width, channels: of an image.
        top, left, bottom, right: how many pixels the halo is wide.
    """

    height: int
    width: int
    channels: int
    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0

    @property
    def empty(self) -> bool:
        """Whether there is no halo at all."""
        return not (self.top or self.left or self.bottom or self.right)

    @property
    def padded_height(self) -> int:
        """Number of rows, with the halo's."""
        return self.top + self.height + self.bottom

    @property
    def row_stride(self) -> int:
        """Number of values in a row, with the halo's."""
        return (self.left + self.width + self.right) * self.channels

    def start(self, image: Any, row: Any) -> Any:
        """Return the offset of the first value of an image's row."""
        return (image * self.padded_height + self.top + row) * self.row_stride + self.left * self.channels

    def fill_part(self, y: Any, rows: int, part: Any, parts: int, value: float, width: int) -> None:
        """Fill the halo of one of several parts of all rows; see `fill`."""
        if self.empty:
            return
        first, behind = (p * rows // parts for p in (part, part + 1))
        with T.serial(behind - first) as r:
            self.fill(y, first + r, value, width)

    def fill(self, y: Any, row: Any, value: float, width: int) -> None:
        """Fill the halo of one row.

        Args:
            y: the buffer of padded images, flat.
            row: number of the row, counted through all padded images.
            value: of the halo.
            width: most values that are written at once.
        """
        start, inside = row * self.row_stride, row % self.padded_height - self.top
        with T.If(T.And(inside >= 0, inside < self.height)):
            with T.Then():
                _fill(y, start, self.left * self.channels, value, width)
                right = (self.left + self.width) * self.channels
                _fill(y, start + right, self.right * self.channels, value, width)
            with T.Else():
                _fill(y, start, self.row_stride, value, width)


def _fill(y: Any, start: Any, length: int, value: float, width: int) -> None:
    if length == 0:
        T.evaluate(T.int32(0))
        return
    run = Run.of(length, width)
    constant = tirx.const(value if y.dtype == "float32" else int(value), y.dtype)
    with T.serial(run.steps) as step:
        T.buffer_store(y, splat(constant, run.width), [span(start + run.start(0, step), run.width)])
