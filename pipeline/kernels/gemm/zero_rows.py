"""Rows of padding: their products are zero, and left out where all of a kernel's row is padding.

In a 3x3 convolution of 7x7 pixels, that is 2 of 21 rows of the kernel. What accumulators begin with makes up for
values being multiplied as they are stored, not minus the zero point; so it depends on how many rows are left out, and
is stored for each such number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.lib import tails

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LeftOut:
    """Which rows of a kernel are left out, those that are padding for all pixels of a tile.

    Attributes:
        geometry: of the operation.
        lines: rows of the output in a tile.
    """

    geometry: Geometry
    lines: int

    def above(self, row: Any) -> Any:
        """Return how many are left out at the kernel's top, by the tile's first row of the output."""
        g = self.geometry
        return _at_least_zero(_divided(g.zero_rows[0] - (row + self.lines - 1) * g.strides[0], g.dilation[0]))

    def below(self, row: Any) -> Any:
        """Return how many are left out at the kernel's bottom, by the tile's first row of the output."""
        g = self.geometry
        return _at_least_zero(g.kernel[0] - _divided(g.height - g.zero_rows[1] - row * g.strides[0], g.dilation[0]))

    @property
    def counts(self) -> list[tuple[int, int]]:
        """How many are left out at the top and at the bottom, for each of the numbers that `number` returns."""
        rows = [int(row) for row in tails.starts(self.lines, self.geometry.out_height)]
        above, below = max(map(self.above, rows)), max(map(self.below, rows))
        return [*((0, k) for k in range(below, 0, -1)), (0, 0), *((k, 0) for k in range(1, above + 1))]

    def number(self, above: Any, below: Any) -> Any:
        """Return which of `counts` it is."""
        return self.counts.index((0, 0)) + above - below

    @property
    def works(self) -> bool:
        """Whether there is something to leave out, but never at the top and at the bottom at once, or everything."""
        rows = [int(row) for row in tails.starts(self.lines, self.geometry.out_height)]
        both = any(self.above(row) and self.below(row) for row in rows)
        return not both and len(self.counts) > 1 and max(map(max, self.counts)) < self.geometry.kernel[0]

    def sums(self, weight: Array, above: int, below: int) -> Array:
        """Return the sums of the weights that are left out: [O] int64, of OHWI weights."""
        rows = weight.shape[1]
        left_out = np.concatenate([weight[:, :above], weight[:, rows - below :]], axis=1)
        return np.asarray(left_out.reshape(len(weight), -1).sum(axis=1, dtype="int64"))


def _divided(rows: Any, dilation: int) -> Any:
    """Return a number of rows as that of the kernel's rows, rounded up."""
    return rows if dilation == 1 else (rows + dilation - 1) // dilation


def _at_least_zero(value: Any) -> Any:
    return max(value, 0) if isinstance(value, int) else T.max(value, 0)
