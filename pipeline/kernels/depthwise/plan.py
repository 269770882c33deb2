"""How a depthwise convolution is cut into dot products and vectors; `dot` has the loops.

A dot product sums four taps. Those of a kernel's row are cut into fours, and the last four may contain zeros:

    3 columns:  a a a 0        5 columns:  a a a a c        7 columns:  a a a a b b b 0

A single column that remains (c) is cut into fours from the top down, so that a 5x5 kernel has 5 + 2 dot products.
Where a dot product is two of pairs, three columns of two rows are three pairs: see `_paired_taps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import Machine

Array = npt.NDArray[Any]

DEPTH = 4
"""Products that a dot product sums, and vectors that an interleaving of bytes gives."""

PAIRED_COLUMNS = 3
"""Of a kernel, where a dot product is two of pairs, of which the second has one column only."""

MAX_PIXELS = 8
"""Most neighbouring pixels in a place."""

TOLERANCE = 1.05
"""A plan of so many times the fewest instructions is taken, if it has fewer vectors, whose constants are all stored."""

REQUANTIZATION = 12
"""Instructions that finish the sums of a vector of outputs."""

Tap = tuple[int, int] | None
"""(row, column) in a kernel, or from a pixel's first one in the input; None where the weight is zero."""


@dataclass(frozen=True)
class Product:
    """One of the dot products that an output consists of.

    Attributes:
        group: of two output rows, products of one group may take the same vectors of the input.
        taps: of its `DEPTH` factors.
        row: with which row of the kernel it is computed; most of its taps are in it, and none two rows below.
    """

    group: int
    taps: tuple[Tap, ...]
    row: int


@dataclass(frozen=True)
class Use:
    """Vectors of the input, and what they are multiplied for.

    Attributes:
        taps: where the `DEPTH` vectors begin.
        products: (output row, number of the product) pairs.
    """

    taps: tuple[Tap, ...]
    products: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Band:
    """Channels whose vectors are formed alike.

    Attributes:
        first: the first channel.
        channels: how many there are.
        pixels: neighbouring output pixels in a place.
        vector: bytes in a vector.
    """

    first: int
    channels: int
    pixels: int
    vector: int

    @property
    def values(self) -> int:
        """Number of bytes in a place."""
        return self.pixels * self.channels

    @property
    def blocks(self) -> int:
        """Number of vectors in a place; the last may overlap the one before."""
        return -(-self.values // self.vector)

    def channel_order(self) -> Array:
        """Return the channel of each lane of a place's sums, as interleaving leaves them: [blocks, DEPTH, lanes]."""
        first = tails.starts(self.vector, self.values)
        vector, lane = np.arange(DEPTH)[:, None], np.arange(self.vector // DEPTH)
        within = lane // 4 * 16 + vector * 4 + lane % 4
        return np.asarray(self.first + (first[:, None, None] + within) % self.channels)


@dataclass(frozen=True)
class Plan:
    """What the loops and the layout of the constants depend on.

    Attributes:
        geometry: the convolution; `groups` is the number of channels.
        machine: has the instruction set.
        bands: which together have all channels.
    """

    geometry: Geometry
    machine: Machine
    bands: tuple[Band, ...]

    @classmethod
    def choose(cls, geometry: Geometry, machine: Machine) -> Plan | None:
        """Return the plan with the fewest instructions, or nearly, or None if a place would be less than a vector."""
        channels, vector = geometry.groups, DEPTH * machine.isa.lanes
        few = range(1, min(MAX_PIXELS, geometry.out_width) + 1)
        plans: list[tuple[Band, ...]] = [
            (Band(0, channels, pixels, vector),) for pixels in (few if geometry.strides[1] == 1 else (1,))
        ]
        rest = channels % vector
        # Of 48 channels, say, 32 of two pixels fill a vector, and 16 of four.
        powers = [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
        if geometry.strides[1] > 1 and rest > 0 and all(vector // power in few for power in powers):
            firsts = [channels - rest + sum(powers[:i]) for i in range(len(powers))]
            gathered = [Band(f, power, vector // power, vector) for f, power in zip(firsts, powers, strict=True)]
            plans.append((*([Band(0, channels - rest, 1, vector)] if channels > vector else []), *gathered))
        wide = [cls(geometry, machine, bands) for bands in plans if all(band.values >= vector for band in bands)]
        fewest = min((plan._instructions() for plan in wide), default=0)
        near = [plan for plan in wide if plan._instructions() <= TOLERANCE * fewest]
        return min(near, key=lambda plan: (plan.blocks, plan._instructions()), default=None)

    @property
    def isa(self) -> InstructionSet:
        """The machine's instruction set."""
        return self.machine.isa

    @property
    def blocks(self) -> int:
        """Number of vectors in all bands."""
        return sum(band.blocks for band in self.bands)

    def _instructions(self) -> int:
        """Count shuffles, dot products and requantization of an output row."""
        uses = sum(len(self.uses(row)) for row in self.fresh_rows)
        vector = 8 * uses + DEPTH * len(self.products()) + REQUANTIZATION
        gathering = DEPTH * uses + 1
        return sum(
            self.places(band) * band.blocks * (vector + gathering * (self.pieces(band) - 1)) for band in self.bands
        )

    @property
    def vector(self) -> int:
        """Number of bytes in a vector."""
        return DEPTH * self.isa.lanes

    def places(self, band: Band) -> int:
        """Return the number of places in a row."""
        return -(-self.geometry.out_width // band.pixels)

    def pieces(self, band: Band) -> int:
        """Return of how many pixels, apart from each other in the input, a vector is gathered."""
        return 1 if self.geometry.strides[1] == 1 else band.pixels

    @property
    def fresh_rows(self) -> range:
        """Input rows that an output row is part of and the one above isn't, from the output row's first one."""
        kernel, stride = self.geometry.kernel[0], self.geometry.strides[0]
        return range(max(kernel - stride, 0) if self._rows_are_shared else 0, kernel)

    @property
    def live(self) -> int:
        """Number of output rows that an input row is part of."""
        return -(-self.geometry.kernel[0] // self.geometry.strides[0]) if self._rows_are_shared else 1

    @property
    def sums_fit_registers(self) -> bool:
        """Whether registers are left beside the sums of a place."""
        return DEPTH * self.live < self.isa.registers

    @property
    def _rows_are_shared(self) -> bool:
        return self.geometry.dilation[0] == 1

    def products(self) -> list[Product]:
        """Return the dot products of an output."""
        rows, columns = self.geometry.kernel
        quads, single = divmod(columns, DEPTH) if columns % DEPTH == 1 else (-(-columns // DEPTH), 0)
        products = []
        for quad in range(quads):
            quad_columns = range(quad * DEPTH, (quad + 1) * DEPTH)
            for row in range(rows):
                taps: tuple[Tap, ...] = tuple((row, c) if c < columns else None for c in quad_columns)
                if columns == PAIRED_COLUMNS and isinstance(self.isa, PairwiseInstructionSet):
                    taps = _paired_taps(row, rows)
                products.append(Product(quad, taps, row))
        for first in range(0, rows if single else 0, DEPTH):
            last = min(first + DEPTH, rows) - 1
            taps = tuple((row, columns - 1) if row >= first else None for row in range(last - DEPTH + 1, last + 1))
            products.append(Product(quads, taps, last))
        return products

    def uses(self, row: int, outputs: int | None = None) -> list[Use]:
        """Return what can be computed with an input row and those above it, and couldn't without it.

        Args:
            row: of the input, counted from the first one of output row 0.
            outputs: how many output rows there are, at most `live`.
        """
        taps: dict[int, list[Tap]] = {}
        products: dict[int, list[tuple[int, int]]] = {}
        for number, product in enumerate(self.products()):
            for output in range(self.live if outputs is None else min(outputs, self.live)):
                top = output * self.geometry.strides[0]
                if top + product.row == row:
                    products.setdefault(product.group, []).append((output, number))
                    known = taps.setdefault(product.group, [None] * DEPTH)
                    taps[product.group] = [
                        (top + t[0], t[1]) if t else k for t, k in zip(product.taps, known, strict=True)
                    ]
        return [Use(tuple(taps[group]), tuple(products[group])) for group in taps]


def _paired_taps(row: int, rows: int) -> tuple[Tap, ...]:
    """Return the taps of a row of three where even and odd ones are multiplied apart: two rows need three products.

    A row's odd pair holds the middle tap of the next row, too, of which only the even pair is left then.
    """
    left, middle, right = ((row, column) for column in range(PAIRED_COLUMNS))
    if row % 2:
        return left, None, right, None
    return left, middle, right, (row + 1, 1) if row + 1 < rows else None


def pack_channels(plan: Plan, values: Array) -> Array:
    """Return per-channel constants, [C], as [blocks of all bands][DEPTH][lanes], flat."""
    return np.concatenate([values[band.channel_order()].reshape(-1) for band in plan.bands])


def pack_weights(plan: Plan, weight: Array) -> Array:
    """Return weights [C,KH,KW,1] as [blocks of all bands][products][DEPTH][lanes * DEPTH], flat."""
    zeros = np.zeros(len(weight), weight.dtype)
    factors = [weight[:, tap[0], tap[1], 0] if tap else zeros for product in plan.products() for tap in product.taps]
    products = np.stack(factors, axis=1).reshape(len(weight), -1, DEPTH)
    chosen = [products[band.channel_order()].transpose(0, 3, 1, 2, 4) for band in plan.bands]
    return np.concatenate([plan.isa.arrange(weights).reshape(-1) for weights in chosen]).astype(plan.isa.weight_dtype)
