"""Register tiles where values are widened to 16 bits in each step, as on x86 without VNNI.

A dot product is then two multiplications and two additions, a pixel's values take two instructions to be widened, and
weights are two vectors. Four of these instructions start in a cycle, and two loads. The constants were fitted to the
times of some 300 tiles of 26 layers of mobile networks and ResNets on a CPU with AVX2; `benchmarks/cost_model.py`
measures tiles and fits the constants, too.
"""

from __future__ import annotations

from pipeline.kernels.gemm.register_tile import Ending, RegisterTile, Workload
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.machine import Machine

TEMPORARIES = 4
"""Registers beside accumulators and weights: a mask, both halves of a pixel's values, and a product."""

INSTRUCTION_CYCLES = 0.31
"""Four instructions start in a cycle, or nearly."""

WEIGHT_BYTES, BYTES_PER_CYCLE = 8, 12
"""Of weights in a lane of a step; and what comes in a cycle where they don't stay in the first-level cache."""

FINISH_CYCLES, PARTIAL_LINE_CYCLES, TILE_CYCLES = 1.2, 2, 2
"""To finish a vector of accumulators, to store a cache line in part, and for each tile."""


class WidenedWorkload(Workload):
    """What such tiles are chosen for."""

    def waits_for_ending(self, tile: RegisterTile) -> bool:
        """Return False: it was measured that small tiles, which widen a pixel's values more often, cost more."""
        return False

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether a tile fits the registers."""
        return tile.mr * tile.nv + 2 * tile.nv + TEMPORARIES <= self.machine.isa.registers

    def cycles(self, tile: RegisterTile) -> float:
        """Return about how long a row takes with a tile."""
        tiles = -(-self.pixels // tile.mr) * -(-self.vectors // tile.nv)
        step_bytes = tile.nv * self.machine.isa.lanes * WEIGHT_BYTES
        fetched = step_bytes / BYTES_PER_CYCLE if self.steps * step_bytes > self.machine.resident_bytes else 0
        instructions = 4 * tile.mr * tile.nv + 2 * tile.mr
        step = max(INSTRUCTION_CYCLES * instructions, (tile.mr + 2 * tile.nv) / 2, fetched)
        stores = tile.nv.bit_count()  # Of three vectors, say, two and one are stored.
        epilogue = FINISH_CYCLES * self.finished_vectors(tile) + PARTIAL_LINE_CYCLES * self.partial_lines(tile) * stores
        return tiles * (step * self.steps + epilogue + TILE_CYCLES)


def make_vector_workload(
    pixels: int,
    channels: int,
    all_channels: int,
    steps: int,
    dtype: str,
    machine: Machine,
    *,
    ending: Ending | None = None,
) -> Workload:
    """Return what a tile of an instruction set's own dot products, or float32 multiply-adds, is chosen for."""
    widened = dtype == "int8" and isinstance(machine.isa, PairwiseInstructionSet)
    kind = WidenedWorkload if widened else Workload
    return kind(pixels, channels, all_channels, steps, dtype, machine, ending=ending)
