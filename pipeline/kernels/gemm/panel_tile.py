"""Chooses the register tile for activations that are copied to panels: see `panel_nest`.

The model counts instructions, as that of `lane_tile`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.lane_tile import (
    BLOCK_FINISH_INSTRUCTIONS,
    BLOCK_TILE_INSTRUCTIONS,
    FINISH_INSTRUCTIONS,
    TILE_INSTRUCTIONS,
    BlockWorkload,
    LaneWorkload,
)
from pipeline.kernels.gemm.register_tile import MAX_MR, MAX_NV, RegisterTile, tail_vectors
from pipeline.kernels.isa.contract import Blocks, Capability, InstructionSet

AnyWorkload = TypeVar("AnyWorkload", bound=LaneWorkload)

LEAST_STEPS, MOST_STEPS = 4, 16
"""Steps in the body of a loop, if so many divide all; else there are some behind the loop."""

LOADED = 4
"""Most vectors that one instruction loads."""

LOOP_INSTRUCTIONS = 2
"""To go on to the loop's beginning."""

SPARE = 2
"""Registers that LLVM needs to find neighbouring ones for loads of several vectors."""

MOST_LINES = 4
"""Rows of pixels in a tile."""

TAP_INSTRUCTIONS = 8
"""For each place in the kernel, to find its values and to begin the loop."""

COPY_INSTRUCTIONS = 5
"""To copy a vector: a load, a store, their addresses, and what puts it in order."""


@dataclass(frozen=True)
class Panels:
    """The order of copied activations: what `panel_nest` shows.

    Attributes:
        geometry: of the operation.
        product: what an instruction multiplies.
        tile: the register tile.
    """

    geometry: Geometry
    product: Blocks
    tile: RegisterTile

    @property
    def depth(self) -> int:
        """How many values of a pixel a step takes in."""
        return self.product.depth

    @property
    def steps(self) -> int:
        """How many steps a pixel's channels are."""
        return self.geometry.group_in // self.depth

    @property
    def columns(self) -> list[int]:
        """How many columns are copied, of those with each remainder modulo the stride."""
        g = self.geometry
        taps = [k * g.dilation[1] for k in range(g.kernel[1])]
        stride = g.strides[1]
        behind = [max((t // stride for t in taps if t % stride == phase), default=None) for phase in range(stride)]
        return [0 if last is None else self.tile.columns + last for last in behind]

    @property
    def phase_columns(self) -> int:
        """For how many columns there is room for each remainder: whole vectors."""
        together = self.product.loaded // self.depth
        return -(-max(self.columns) // together) * together

    @property
    def step_values(self) -> int:
        """How many values of a panel belong to a step."""
        return len(self.columns) * self.phase_columns * self.depth

    @property
    def values(self) -> int:
        """How many values a panel has."""
        return self.steps * self.step_values

    @property
    def loads(self) -> int:
        """How many vectors hold a step's values of a tile's row."""
        return -(-self.tile.columns * self.depth // self.product.loaded)

    def column(self, offset: Any) -> Any:
        """Return where the column is that is `offset`, a TIR expression, behind the first one of a tile."""
        stride = self.geometry.strides[1]
        return (offset % stride * self.phase_columns + offset // stride) * self.depth


def fits_panels(geometry: Geometry, isa: InstructionSet, dtype: str) -> bool:
    """Return whether activations of a dtype can be copied to panels, and all of them are needed."""
    g, product = geometry, isa.blocks(dtype)
    return (
        (isa.has(Capability.NEIGHBOUR_PRODUCTS) or dtype == "float32")
        and g.groups == 1
        and g.group_in >= product.loaded > 0
        and g.group_in % product.depth == 0
        and all(kernel >= stride for kernel, stride in zip(g.kernel, g.strides, strict=True))
    )


@dataclass(frozen=True)
class PanelWorkload(BlockWorkload):
    """What tiles are chosen for where activations are copied to panels.

    Attributes:
        geometry: of the operation.
    """

    geometry: Geometry

    def choose(self) -> RegisterTile:
        """Return the tile that was measured to be the quickest, or the cheapest one.

        Raises:
            TableError: what was measured can't be a tile for this.
        """
        return super(BlockWorkload, self).choose()

    def tiles(self) -> list[RegisterTile]:
        """Return all tiles, whether or not they fit the registers."""
        return [
            RegisterTile(columns * lines, nv, lines)
            for nv in range(1, min(MAX_NV, self.vectors) + 1)
            for lines in range(1, min(MOST_LINES, self.rows) + 1)
            for columns in range(1, min(MAX_MR // lines, self.pixels) + 1)
        ]

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether one load brings a line's values, and whether all that lives at once has a register."""
        return self._panels(tile).loads <= LOADED and self._live(tile) <= self.machine.isa.registers

    def loads_together(self, tile: RegisterTile) -> int:
        """Return how many steps there are in the body of a loop."""
        steps = self._panels(tile).steps
        evenly = max(count for count in range(1, MOST_STEPS + 1) if steps % count == 0)
        return evenly if evenly >= LEAST_STEPS else min(steps, MOST_STEPS)

    def cycles(self, tile: RegisterTile) -> float:
        """Return about how many instructions a row takes with a tile."""
        g, panels = self.geometry, self._panels(tile)
        left = tail_vectors(self.vectors, tile.nv, self.steps * self.machine.isa.load_bytes * self._blocks_per_vector)
        whole = self.vectors // tile.nv if left else -(-self.vectors // tile.nv)
        tail = self._tile_cycles(dataclasses.replace(tile, nv=left)) if left else 0
        columns = -(-self.pixels // tile.columns)
        lines = -(-self.rows // tile.lines) / self.rows
        products = lines * columns * (whole * self._tile_cycles(tile) + tail)
        # What a load brings is copied at once; the last channels twice, where that doesn't divide them.
        pieces = -(-g.group_in // self.product.loaded)
        copied = g.height / g.out_height * columns * pieces * (panels.step_values // panels.depth)
        return products + COPY_INSTRUCTIONS * copied

    def _tile_cycles(self, tile: RegisterTile) -> float:
        taps, steps, together = math.prod(self.geometry.kernel), self._panels(tile).steps, self.loads_together(tile)
        loads = tile.lines + -(-tile.nv * self._blocks_per_vector // LOADED)
        step = self._sums(tile) + loads + LOOP_INSTRUCTIONS / together
        begin, finish_vector = BLOCK_TILE_INSTRUCTIONS, BLOCK_FINISH_INSTRUCTIONS
        if self.dtype == "float32":
            begin, finish_vector = TILE_INSTRUCTIONS, FINISH_INSTRUCTIONS
        finish = begin + finish_vector * self.finished_vectors(tile)
        return taps * (steps * step + TAP_INSTRUCTIONS) + finish

    def _panels(self, tile: RegisterTile) -> Panels:
        return Panels(self.geometry, self.product, tile)

    def _live(self, tile: RegisterTile) -> int:
        """Return how many registers accumulators, values and weights take."""
        weights = tile.nv * self._blocks_per_vector
        return self._sums(tile) + tile.lines * self._panels(tile).loads + weights + SPARE

    def _sums(self, tile: RegisterTile) -> int:
        """Return how many registers hold the sums of a tile."""
        blocks = -(-tile.columns // self.product.pixels)
        return tile.lines * blocks * tile.nv * self._blocks_per_vector


def cheaper(blocks: AnyWorkload, panels: PanelWorkload) -> AnyWorkload | PanelWorkload:
    """Return whichever of two workloads has the cheaper tile, or the one that a tile was measured for."""
    both: list[AnyWorkload | PanelWorkload] = [blocks, panels]
    tuned = [w for w in both if w.key in w.machine.tuned]
    return min(tuned or both, key=lambda w: w.cycles(w.choose()))
