"""How a convolution is divided among the loops of `winograd.nest`, and whether it takes fewer instructions so.

Instruction sets that take a step's values from any place in a register are limited by how many instructions begin in a
cycle, so that these are counted, as in `gemm.lane_tile`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.geometry import Geometry, geometry_of
from pipeline.kernels.gemm.plan import make_block_workload
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Operation
from pipeline.kernels.winograd.transforms import KERNEL, POSITIONS, SHIFT, TILE

WORD_BYTES = 2

WORDS, BLOCK_CHANNELS = 8, 16
"""Values of 16 bits in a vector of 128 bits, and output channels that are computed together: a vector of bytes."""

BLOCK_VECTORS = 4
"""Vectors of sums of a block of output channels."""

WEIGHTS, TEMPORARIES = 4, 3
"""Registers of weights that are loaded together, and registers to spare."""

MIDDLE = 128
"""What is subtracted from activations."""

MOST_SUM = 1 << (31 - SHIFT)
"""Sums below it, of either sign, are exact; see `transforms`."""

INPUT_INSTRUCTIONS, WEIGHT_INSTRUCTIONS, OUTPUT_INSTRUCTIONS = 330, 270, 350
"""To transform a tile's inputs for a vector of channels, the weights of an input channel and a block of output
channels, and a tile's outputs of a vector of channels."""

FINISH_INSTRUCTIONS, POSITION_INSTRUCTIONS, LOOP_INSTRUCTIONS = 38, 12, 3
"""To finish a pixel of a block; for each position of some tiles; and for each step of a loop."""

INPUT_PART, WEIGHT_PART = 1 / 2, 1 / 3
"""Of the second-level cache, for transformed inputs of all channels and for a block's transformed weights."""

BAND_CHOICES = 16
"""Of so many numbers of bands, at most, from the least to twice as many, the one is taken that divides tiles best."""

TOO_DEAR = 1.05
"""How many times as many instructions as without bands are too many to keep inputs in that cache."""

WORTH = 0.75
"""How many of a direct convolution's instructions it may take: transformed values fill more of the caches."""


@dataclass(frozen=True)
class WinogradPlan:
    """Everything that the loops depend on.

    Attributes:
        geometry: what to compute.
        machine: has the instruction set.
        together: tiles that are multiplied together.
        bands: parts that tiles are divided into.
    """

    geometry: Geometry
    machine: Machine
    together: int
    bands: int

    @classmethod
    def choose(cls, geometry: Geometry, machine: Machine) -> WinogradPlan:
        """Return the plan with the fewest instructions, with inputs in the second-level cache if that's not dear.

        Weights are transformed for each band, which takes as long as the products of two tiles.
        """
        whole = cls(geometry, machine, together=1, bands=1)
        least = min(math.ceil(whole.input_bytes / (machine.l2_bytes * INPUT_PART)), whole.tiles)
        cheapest = whole._cheapest([1])
        cached = whole._cheapest(range(least, min(2 * least, whole.tiles) + 1, -(-least // BAND_CHOICES)))
        return cached if cached.instructions() <= TOO_DEAR * cheapest.instructions() else cheapest

    def _cheapest(self, bands: Iterable[int]) -> WinogradPlan:
        most = (self.isa.registers - 2 * WEIGHTS - TEMPORARIES) // (BLOCK_VECTORS + 1)
        plans = [dataclasses.replace(self, together=n, bands=b) for b in bands for n in range(1, most + 1)]
        return min((p for p in plans if p.together <= p.band_tiles), key=WinogradPlan.instructions)

    @property
    def isa(self) -> InstructionSet:
        """The machine's instruction set."""
        return self.machine.isa

    @property
    def blocks(self) -> int:
        """Number of blocks of output channels."""
        return -(-self.geometry.group_out // BLOCK_CHANNELS)

    @property
    def tile_rows(self) -> int:
        """Number of tiles in a column of an image."""
        return -(-self.geometry.out_height // TILE)

    @property
    def tile_columns(self) -> int:
        """Number of tiles in a row of an image."""
        return -(-self.geometry.out_width // TILE)

    @property
    def tiles(self) -> int:
        """Number of tiles in all images."""
        return self.geometry.batch * self.tile_rows * self.tile_columns

    @property
    def input_bytes(self) -> int:
        """Size of all transformed inputs."""
        return self.tiles * POSITIONS * self.geometry.group_in * WORD_BYTES

    @property
    def band_tiles(self) -> int:
        """Number of tiles in a part; the last one overlaps the one before."""
        return -(-self.tiles // self.bands)

    @property
    def groups(self) -> int:
        """How many times some tiles are multiplied together in a part; the last ones overlap the ones before."""
        return -(-self.band_tiles // self.together)

    @property
    def chunks(self) -> int:
        """How many parts input channels are divided into, so that a part's weights stay in the second-level cache."""
        vectors = self.geometry.group_in // WORDS
        vector_weights = WORDS * POSITIONS * BLOCK_CHANNELS * WORD_BYTES
        most = max(1, int(self.machine.l2_bytes * WEIGHT_PART) // vector_weights)
        return next(n for n in range(1, vectors + 1) if vectors % n == 0 and vectors // n <= most)

    @property
    def chunk_channels(self) -> int:
        """Number of input channels in a part."""
        return self.geometry.group_in // self.chunks

    def channels(self) -> npt.NDArray[np.int64]:
        """Return the output channels of all blocks, of which the last may overlap: [blocks * BLOCK_CHANNELS]."""
        starts = tails.starts(BLOCK_CHANNELS, self.geometry.group_out)
        return (starts[:, np.newaxis] + np.arange(BLOCK_CHANNELS)).reshape(-1)

    def instructions(self) -> float:
        """Return about how many instructions the convolution takes."""
        inputs, vectors, blocks = self.geometry.group_in, self.geometry.group_in / WORDS, self.bands * self.blocks
        step = self.together * BLOCK_VECTORS + BLOCK_VECTORS / 2 / WEIGHTS
        load = WORDS * step + self.together + LOOP_INSTRUCTIONS
        sums = 2 * self.together * BLOCK_VECTORS + POSITION_INSTRUCTIONS
        products = POSITIONS * (vectors * load + self.chunks * sums)
        outputs = self.together * (BLOCK_VECTORS * OUTPUT_INSTRUCTIONS + TILE * TILE * FINISH_INSTRUCTIONS)
        transformed = self.bands * self.band_tiles * vectors * INPUT_INSTRUCTIONS
        return transformed + blocks * (inputs * WEIGHT_INSTRUCTIONS + self.groups * (products + outputs))


def fits(operation: Operation) -> bool:
    """Return whether a convolution can be computed so, exactly: of bytes, 3x3, stride 1, and no sum is too large."""
    g = geometry_of(operation)
    shape = (g.groups, g.kernel, g.strides, g.dilation) == (1, (KERNEL, KERNEL), (1, 1), (1, 1))
    whole = g.group_in % WORDS == 0 and g.group_out >= BLOCK_CHANNELS
    if operation.inputs[0].dtype == "int16" or not (shape and whole and min(g.out_height, g.out_width) >= TILE):
        return False
    weight = operation.constants[1]
    magnitudes = np.abs(weight.reshape(len(weight), -1).astype("int64")).sum(axis=1)
    return bool((MIDDLE * magnitudes < MOST_SUM).all())


def pays(operation: Operation, machine: Machine) -> bool:
    """Return whether a convolution that fits takes clearly fewer instructions than a direct one."""
    g = geometry_of(operation)
    direct = make_block_workload(g, machine, operation.inputs[0].dtype)
    rows = g.batch * g.out_height
    return WinogradPlan.choose(g, machine).instructions() < WORTH * rows * direct.cycles(direct.choose())
