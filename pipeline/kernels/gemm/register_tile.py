"""Chooses the register tile: how many pixels and channel vectors one micro-kernel call accumulates.

The model counts cycles for one step of the reduction: a tile's multiply-adds (mr * nv), of which two start in a cycle;
the values that it loads (mr broadcasts, nv weight vectors), hardly more than one in a cycle; and, where the channel
block's weights don't stay in the first-level cache from tile to tile, the bytes of weights that come from the second.
The slowest of these sets the pace; a cycle for the loop comes on top. For each tile, there is its epilogue, with a
store for each cache line, or a dearer one for each that it fills in part. A short reduction is unrolled, and LLVM keeps
all of its weights in registers: where they don't fit beside the accumulators, these are spilled. Tiles that don't
divide the row or the channels cost what they compute twice.

The constants were fitted to the times of all tiles of some 150 layers of mobile networks, ResNets and text detectors on
a CPU with AVX512-VNNI: with them, layers take 3 % longer than with the quickest tile of each, by measurement.
`benchmarks/cost_model.py` measures tiles and fits the constants; benchmarks/data has what it measured elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import TableError
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.machine import CACHE_LINE, Machine

MAX_MR = 28
MAX_NV = 8

MIN_ACCUMULATORS = 10
"""A multiply-add takes four or five cycles and two start in each cycle: fewer independent sums leave ports idle."""

CYCLES_PER_LOAD = {"int8": 0.9, "int16": 0.9, "float32": 0.95}
"""By what is computed: float32 has four times the bytes."""

BYTES_PER_CYCLE = 24
"""Bytes each cycle from the second-level cache."""

EPILOGUE_CYCLES = 3
"""Cycles to finish a vector of accumulators."""

STORE_CYCLES, PARTIAL_STORE_CYCLES = 1, 4
"""Cycles to store a whole cache line, and a part of one, which is loaded again to store the other part."""

UNROLLED_STEPS = 9
"""LLVM completely unrolls reductions of at most this many steps."""

SPILL_CYCLES = 2
"""Cycles for each value of an unrolled reduction that doesn't fit the registers."""

MIN_TAIL_BYTES = 4096
"""Bytes of weights that a tail has to save. Its code takes about half as much."""


@dataclass(frozen=True)
class Ending:
    """What a reduction ends in, if that takes many instructions, and other ports than products.

    Attributes:
        most_sums: of so many sums, of a tile, a CPU computes it while it begins with the next tile.
        most_steps: reductions that are longer leave it little to gain.
    """

    most_sums: int
    most_steps: int


FUNCTION = Ending(most_sums=6, most_steps=48)
"""A hard-swish: as many instructions as ten steps."""

RESIDUAL = Ending(most_sums=12, most_steps=32)
"""The addition of another tensor: as many as five steps."""


def tail_vectors(vectors: int, nv: int, vector_bytes: int) -> int:
    """Return how many vectors of channels get a tile of their own behind blocks of `nv`; see `nest`.

    Args:
        vectors: of output channels in a group.
        nv: how many are in a block.
        vector_bytes: bytes of each one's weights.
    """
    whole, left = divmod(vectors, nv)
    return left if whole and (nv - left) * vector_bytes >= MIN_TAIL_BYTES else 0


def ends_in_half(channels: int, isa: InstructionSet) -> bool:
    """Return whether half a vector is enough for the last ones of a number of channels."""
    return isa.half is not None and 0 < channels % isa.lanes <= isa.half.lanes


@dataclass(frozen=True)
class RegisterTile:
    """A register tile: `mr` pixels by `nv` vectors of output channels; the pixels are in `lines` rows of the output."""

    mr: int
    nv: int
    lines: int = 1

    @property
    def columns(self) -> int:
        """Number of pixels in each of the rows."""
        return self.mr // self.lines


@dataclass(frozen=True)
class Workload:
    """What the choice of a tile depends on.

    Attributes:
        pixels: output pixels in a row.
        channels: output channels in a group.
        all_channels: output channels in a pixel.
        steps: length of the reduction.
        dtype: what is computed: "int8", "int16" or "float32".
        machine: sets how many registers there are.
        ending: what it ends in, if it is more than rounding.
    """

    pixels: int
    channels: int
    all_channels: int
    steps: int
    dtype: str
    machine: Machine
    ending: Ending | None = field(default=None, kw_only=True)

    def choose(self) -> RegisterTile:
        """Return the tile that was measured to be the quickest, or, where nothing was measured, the cheapest.

        Raises:
            TableError: what was measured can't be a tile for this.
        """
        candidates = self.candidates()
        if self.key not in self.machine.tuned:
            return candidates[0]
        tile = RegisterTile(*self.machine.tuned[self.key])
        if tile not in candidates:
            raise TableError(
                f"The tuning database has a tile of {tile.mr} pixels by {tile.nv} vectors for {self.key}: that doesn't "
                "fit the shape or the registers. Delete the entry."
            )
        return tile

    def candidates(self) -> list[RegisterTile]:
        """Return all tiles that fit the registers, the best first: the cheapest, of those that wait for no ending."""
        fitting = (tile for tile in self.tiles() if self.fits(tile))
        return sorted(fitting, key=lambda tile: (self.waits_for_ending(tile), self.cycles(tile), tile.mr, tile.nv))

    def waits_for_ending(self, tile: RegisterTile) -> bool:
        """Return whether what this tile's sums end in holds up the next tile's products.

        Large tiles do, and so do tiles of some of the channels that finish vectors which they don't have, and store
        the others in several parts.
        """
        if self.ending is None or not self._overlaps or self.ends_in_half(tile):
            return False
        sums, in_parts = tile.mr * tile.nv, tile.nv < self.vectors and self.partial_lines(tile) > 0
        return sums > self.ending.most_sums or (in_parts and self.finished_vectors(tile) > sums)

    @property
    def _overlaps(self) -> bool:
        """Whether the ending takes so long beside the products that it is best computed beside the next tile's."""
        return self.ending is not None and self.steps <= self.ending.most_steps

    def tiles(self) -> list[RegisterTile]:
        """Return all tiles of pixels in one row, whether or not they fit the registers."""
        vectors, pixels = range(1, min(MAX_NV, self.vectors) + 1), range(1, min(MAX_MR, self.pixels) + 1)
        return [RegisterTile(mr, nv) for nv in vectors for mr in pixels]

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether accumulators, weights, a broadcast value and one to spare have a register each."""
        return tile.mr * tile.nv + tile.nv + 2 <= self.machine.isa.registers

    def loads_together(self, tile: RegisterTile) -> int:
        """Return how many loads of a pixel's values there are best in the body of a loop."""
        return 1

    def ends_in_half(self, tile: RegisterTile) -> bool:
        """Return whether half a vector is enough for the last channels of a tile that has all of them."""
        return tile.nv == self.vectors and ends_in_half(self.channels, self.machine.isa)

    @property
    def key(self) -> str:
        """The key of this workload in tuning databases."""
        shape = f"pixels={self.pixels} channels={self.channels}/{self.all_channels} steps={self.steps}"
        return f"{self.machine.isa.name} l1d_bytes={self.machine.l1d_bytes} {self.dtype} {shape}"

    @property
    def vectors(self) -> int:
        """Vectors of output channels in a group."""
        return -(-self.channels // self.machine.isa.lanes)

    def cycles(self, tile: RegisterTile) -> float:
        """Return about how long a row takes with a tile."""
        tiles = -(-self.pixels // tile.mr) * -(-self.vectors // tile.nv)
        return tiles * (self.steps * self._step(tile) + self._epilogue(tile) + self._spills(tile))

    def _step(self, tile: RegisterTile) -> float:
        nv = self._computed_vectors(tile)
        products = max(tile.mr * nv, 0 if self._overlaps else MIN_ACCUMULATORS) / 2
        loads = (tile.mr + tile.nv) * CYCLES_PER_LOAD[self.dtype]
        step_bytes = nv * self.machine.isa.lanes * 4
        fetched = step_bytes / BYTES_PER_CYCLE if self.steps * step_bytes > self.machine.resident_bytes else 0
        return max(products, loads, fetched) + 1

    def _epilogue(self, tile: RegisterTile) -> float:
        finished, partial = tile.mr * self._computed_vectors(tile), self.partial_lines(tile)
        if self._overlaps:
            finished = self.finished_vectors(tile)
        whole = 0.0 if partial else tile.mr * tile.nv * self.machine.isa.lanes * self._item_bytes / CACHE_LINE
        return EPILOGUE_CYCLES * finished + whole * STORE_CYCLES + partial * PARTIAL_STORE_CYCLES

    def _computed_vectors(self, tile: RegisterTile) -> float:
        return tile.nv - 0.5 if self.ends_in_half(tile) else tile.nv

    def partial_lines(self, tile: RegisterTile) -> int:
        """Return how many cache lines of the output a tile fills in part; none, if it fills all that it touches."""
        block = tile.nv * self.machine.isa.lanes
        in_whole_lines = block * self._item_bytes % CACHE_LINE == 0 and self.channels % block == 0
        if self.all_channels == block or in_whole_lines:
            return 0
        return tile.mr * -(-block * self._item_bytes // CACHE_LINE)

    def finished_vectors(self, tile: RegisterTile) -> int:
        """Return how many vectors a tile finishes, with those that are missing where fewer are finished together."""
        together = self.machine.isa.saturate_vectors
        if self.all_channels == tile.nv * self.machine.isa.lanes:
            return -(-tile.mr * tile.nv // together) * together
        left = tile.nv % together
        groups = -(-tile.mr // (together // left)) if left else 0
        return tile.mr * (tile.nv - left) + groups * together

    @property
    def _item_bytes(self) -> int:
        """Bytes of an output."""
        return 4 if self.dtype == "float32" else 1

    def _spills(self, tile: RegisterTile) -> float:
        if self.steps > UNROLLED_STEPS:
            return 0
        accumulators, weights, bias_and_multipliers = tile.mr * tile.nv, self.steps * tile.nv, 2 * tile.nv
        excess = accumulators + weights + bias_and_multipliers + 2 - self.machine.isa.registers
        return SPILL_CYCLES * min(max(excess, 0), 2 * accumulators)
