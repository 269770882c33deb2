"""Chooses the register tile where one load brings a pixel's values for several steps: see `lane_nest` and `block_nest`.

Instruction sets that have this load two neighbouring vectors of weights by one instruction, and what limits them is how
many instructions begin in a cycle. So the model counts instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.kernels.gemm.register_tile import RegisterTile, Workload
from pipeline.kernels.isa.contract import Blocks

WEIGHTS = 4
"""Vectors of weights that one instruction loads."""

ADDRESS_INSTRUCTIONS = 3
"""To go on to the next values and weights, and to the loop's beginning."""

TILE_INSTRUCTIONS, FINISH_INSTRUCTIONS = 30, 4
"""For each tile, and to finish each of its vectors."""

BLOCK_TILE_INSTRUCTIONS, BLOCK_FINISH_INSTRUCTIONS, SEGMENT_INSTRUCTIONS = 60, 5, 14
"""The same of integers, which are requantized; and for each segment, to find its values and to begin the loop."""

SHARED_SUM_TEMPORARIES, SHARED_SUM_INSTRUCTIONS = 6, 3
"""Registers and instructions that products of blocks need where several lanes hold a sum together."""

WORD_TEMPORARIES, CUT_INSTRUCTIONS, JOIN_INSTRUCTIONS = 3, 4, 2
"""To cut a pixel's values of 16 bits into bytes: registers, instructions; and to join the sums of both."""

MOST_UNROLLED_INSTRUCTIONS, SPILL_INSTRUCTIONS = 300, 5
"""LLVM unrolls shorter reductions completely, and then spills: so many instructions for each accumulator."""

MOST_LINES = 2
"""Rows of pixels in a tile: where a row is short, two of them are divided with less that is computed twice."""


@dataclass(frozen=True)
class LaneWorkload(Workload):
    """What tiles are chosen for.

    There is one load of a pixel's values in the body of a loop: LLVM would order multiply-adds of several by their
    latency, and run out of registers.

    Attributes:
        steps_per_load: how many steps there are to a load.
    """

    steps_per_load: int

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether all that lives at once has a register."""
        return self._live(tile) <= self.machine.isa.registers

    def _live(self, tile: RegisterTile) -> int:
        """Return how many registers accumulators, values and weights take, and the weights that come next."""
        return tile.mr * tile.nv + tile.mr + 2 * WEIGHTS

    def cycles(self, tile: RegisterTile) -> float:
        """Return about how many instructions a row takes with a tile."""
        tiles = self._tiles(tile)
        per_load = (tile.mr + ADDRESS_INSTRUCTIONS) / self.loads_together(tile) + self._prepare(tile)
        values = self.steps / self.steps_per_load * per_load
        finish = self._begin + self._finish(tile)
        reduction = self.steps * (self._products(tile) + self._weights(tile)) + values
        unrolled = self._unrolls and reduction < MOST_UNROLLED_INSTRUCTIONS
        spills = SPILL_INSTRUCTIONS * tile.mr * tile.nv if unrolled else 0
        return tiles * (reduction + spills + finish)

    @property
    def _unrolls(self) -> bool:
        return True

    @property
    def _begin(self) -> int:
        return TILE_INSTRUCTIONS

    def _tiles(self, tile: RegisterTile) -> float:
        return -(-self.pixels // tile.mr) * -(-self.vectors // tile.nv)

    def _prepare(self, tile: RegisterTile) -> int:
        return 0

    def _products(self, tile: RegisterTile) -> int:
        return tile.mr * tile.nv

    def _weights(self, tile: RegisterTile) -> float:
        return tile.nv / WEIGHTS

    def _finish(self, tile: RegisterTile) -> int:
        return FINISH_INSTRUCTIONS * tile.mr * tile.nv


@dataclass(frozen=True)
class BlockWorkload(LaneWorkload):
    """What tiles are chosen for where products are those of blocks.

    Attributes:
        rows: how many rows of pixels there are.
        segments: how many there are in a reduction.
        converted: whether activations are converted when they are loaded, for which there is a register, too.
    """

    rows: int
    segments: int
    converted: bool

    @property
    def product(self) -> Blocks:
        """What an instruction multiplies."""
        return self.machine.isa.blocks(self.dtype)

    def choose(self) -> RegisterTile:
        """Return the tile that was measured to be the quickest, or the cheapest one, of pixels in one or two rows.

        Raises:
            TableError: what was measured can't be a tile for this.
        """
        tile = super().choose()
        if self.key in self.machine.tuned or self.rows < MOST_LINES:
            return tile
        doubled = (RegisterTile(t.mr * MOST_LINES, t.nv, MOST_LINES) for t in self.tiles())
        fitting = [t for t in doubled if self.fits(t)]
        return min([tile, *fitting], key=lambda t: (self.cycles(t), t.lines, t.mr, t.nv))

    def _tiles(self, tile: RegisterTile) -> float:
        rows = -(-self.rows // tile.lines) / self.rows
        return rows * -(-self.pixels // tile.columns) * -(-self.vectors // tile.nv)

    @property
    def _unrolls(self) -> bool:
        return self._lanes_per_sum > 1

    @property
    def _begin(self) -> int:
        return BLOCK_TILE_INSTRUCTIONS + SEGMENT_INSTRUCTIONS * self.segments

    @property
    def _blocks_per_vector(self) -> int:
        return self.machine.isa.lanes // self.product.channels

    @property
    def _lanes_per_sum(self) -> int:
        return self._blocks_per_vector // self.product.pixels

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether pixels fill their blocks, and whether all that lives at once has a register."""
        return tile.mr % self.product.pixels == 0 and super().fits(tile)

    def loads_together(self, tile: RegisterTile) -> int:
        """Return 2 if there are registers for two loads of each pixel, else 1."""
        return 2 if self._live(tile) + tile.mr - WEIGHTS <= self.machine.isa.registers else 1

    def _live(self, tile: RegisterTile) -> int:
        temporaries = SHARED_SUM_TEMPORARIES if self._lanes_per_sum > 1 else int(self.product.pixels > 1)
        return tile.mr * tile.nv * self._lanes_per_sum + tile.mr + 2 * WEIGHTS + temporaries + self.converted

    def _prepare(self, tile: RegisterTile) -> int:
        return tile.mr * (self.converted + (self.product.pixels > 1))

    def _products(self, tile: RegisterTile) -> int:
        sums = tile.mr * tile.nv * self._lanes_per_sum
        return sums * SHARED_SUM_INSTRUCTIONS if self._lanes_per_sum > 1 else sums

    def _weights(self, tile: RegisterTile) -> float:
        return tile.nv * self._blocks_per_vector / WEIGHTS

    def _finish(self, tile: RegisterTile) -> int:
        return (BLOCK_FINISH_INSTRUCTIONS + self._lanes_per_sum) * tile.mr * tile.nv


@dataclass(frozen=True)
class WordWorkload(BlockWorkload):
    """What tiles are chosen for where both bytes of values of 16 bits are multiplied: see `word_nest`."""

    def loads_together(self, tile: RegisterTile) -> int:
        """Return 1: there are no registers for more."""
        return 1

    def _live(self, tile: RegisterTile) -> int:
        return super()._live(tile) + tile.mr * tile.nv * self._lanes_per_sum + tile.mr + WORD_TEMPORARIES

    def _prepare(self, tile: RegisterTile) -> int:
        return tile.mr * (CUT_INSTRUCTIONS + 2 * (self.product.pixels > 1))

    def _products(self, tile: RegisterTile) -> int:
        return 2 * super()._products(tile)

    def _finish(self, tile: RegisterTile) -> int:
        return super()._finish(tile) + JOIN_INSTRUCTIONS * tile.mr * tile.nv
