"""Chooses the register tile: how many pixels and channel vectors one micro-kernel call accumulates.

The model counts cycles for one step of the reduction: a tile's multiply-adds (mr * nv), of which two start in a cycle;
the values that it loads (mr broadcasts, nv weight vectors), somewhat fewer than two in a cycle; and, where the channel
block's weights don't stay in the first-level cache from tile to tile, the bytes of weights that come from the second.
The slowest of these sets the pace; a cycle for the loop comes on top, and for each tile the filling and emptying of its
accumulators. Tiles that don't divide the row or the channels cost what they compute twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.kernels.isa import InstructionSet

MAX_MR = 28
MAX_NV = 8

MIN_ACCUMULATORS = 10
"""A multiply-add takes four or five cycles and two start in each, so fewer chains leave the ports idle."""

CYCLES_PER_LOAD = 0.8

BYTES_PER_CYCLE = 24
"""What the second-level cache delivers."""


@dataclass(frozen=True)
class Tile:
    """A register tile: `mr` pixels by `nv` vectors of output channels; the pixels are in `lines` rows of the output."""

    mr: int
    nv: int
    lines: int = 1

    @property
    def columns(self) -> int:
        """Number of pixels in each of the rows."""
        return self.mr // self.lines


def choose_tile(pixels: int, vectors: int, steps: int, isa: InstructionSet) -> Tile:
    """Return the cheapest tile.

    Args:
        pixels: output pixels in a row.
        vectors: vectors of output channels.
        steps: length of the reduction.
        isa: sets how many registers there are; one is for the broadcast value, and one to spare.
    """
    candidates = [
        Tile(mr, nv)
        for nv in range(1, min(MAX_NV, vectors) + 1)
        for mr in range(1, min(MAX_MR, pixels) + 1)
        if mr * nv + nv + 2 <= isa.registers
    ]
    return min(candidates, key=lambda tile: (_cost(tile, pixels, vectors, steps, isa), tile.mr, tile.nv))


def resident_bytes(isa: InstructionSet) -> int:
    """Return how many bytes of weights stay in the first-level cache from tile to tile, beside the activations."""
    return isa.l1d_bytes // 2


def _cost(tile: Tile, pixels: int, vectors: int, steps: int, isa: InstructionSet) -> float:
    tiles = -(-pixels // tile.mr) * -(-vectors // tile.nv)
    products = max(tile.mr * tile.nv, MIN_ACCUMULATORS) / 2
    loads = (tile.mr + tile.nv) * CYCLES_PER_LOAD
    step_bytes = tile.nv * isa.lanes * 4
    fetched = step_bytes / BYTES_PER_CYCLE if steps * step_bytes > resident_bytes(isa) else 0
    epilogue = 5 * tile.mr * tile.nv + 10
    return tiles * (steps * (max(products, loads, fetched) + 1) + epilogue)
