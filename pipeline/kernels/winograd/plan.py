"""How a convolution is divided among the loops of `winograd.nest`, and about what it costs so.

Instruction sets that take a step's values from any place in a register are limited by how many instructions begin in a
cycle, so that these are counted, as in `gemm.lane_tile`; for others, it is cycles, as in `gemm.register_tile`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.geometry import Geometry, geometry_of
from pipeline.kernels.gemm.parallel import TASKS, worth_threads
from pipeline.kernels.gemm.register_tile import Workload, ends_in_half
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import CACHE_LINE, Machine
from pipeline.kernels.operation import Operation
from pipeline.kernels.winograd.transforms import KERNEL, POSITIONS, SHIFT, TILE

WORD_BYTES = 2

MOST_VECTORS, REGISTERS_PER_VECTOR = 4, 8
"""Vectors of sums of a block of output channels: at most so many, and one for so many registers."""

LOADED_TOGETHER, LANE_TEMPORARIES, TEMPORARIES = 4, 3, 2
"""Registers of weights that are loaded together where a step's values come from any place in a register; registers to
spare there; and elsewhere, with a tile's values among them."""

MIDDLE = 128
"""What is subtracted from activations."""

MOST_SUM = 1 << (31 - SHIFT)
"""Sums below it, of either sign, are exact; see `transforms`."""

INPUT_PART, WEIGHT_PART = 1 / 2, 1 / 3
"""Of the second-level cache, for transformed inputs of all channels and for a block's transformed weights."""

BAND_CHOICES = 16
"""Of so many numbers of bands, at most, from the least to twice as many, the one is taken that divides tiles best."""

THREADS = 2
"""With how many threads a plan should be cheap, too."""

WORTH = 0.92
"""Of what a direct convolution costs, what this may: transformed values fill more of the caches.

Measured on AMD's Zen 4, layers took 0.90 to 1.0 of the time, relative to a direct convolution, that costs say.
"""


@dataclass(frozen=True)
class Costs:
    """What the parts of the loops cost.

    Attributes:
        product: the products of a vector of sums, in a step.
        load: of a step, for each tile and each vector of sums.
        step: a step, besides.
        sums: to load or to store a vector of sums, for each position and chunk.
        position: a position and a chunk of some tiles, besides.
        inputs: to transform a vector of a tile's inputs.
        weights: to transform a vector of weights.
        outputs: to transform a vector of a tile's sums.
        finish: to requantize and to store a vector of sums of a pixel.
        fetch: a byte of transformed inputs that isn't in the second-level cache.
        share: a byte of them that another thread has transformed.
        phase: to have other threads begin.
    """

    product: float
    load: float
    step: float
    sums: float
    position: float
    inputs: float
    weights: float
    outputs: float
    finish: float
    fetch: float
    share: float
    phase: float


INSTRUCTIONS = Costs(
    product=1,
    load=1 / 8,
    step=3 / 8,
    sums=1,
    position=12,
    inputs=330,
    weights=135,
    outputs=350,
    finish=9.5,
    fetch=0.3,
    share=0,
    phase=3000,
)
"""Where instructions are counted, of which sharing takes none."""

CYCLES = Costs(
    product=0.5,
    load=0.06,
    step=0.1,
    sums=0.6,
    position=20,
    inputs=130,
    weights=55,
    outputs=110,
    finish=3,
    fetch=0.07,
    share=0.3,
    phase=3000,
)
"""Where cycles are counted, in which two multiplications begin.

By them, 20 layers take some 5 % more or less than they were measured to, with AVX2 and SSE4.1 on AMD's Zen 4, unless
their transformed inputs fill the second-level cache several times.
"""


@dataclass(frozen=True)
class WinogradPlan:
    """Everything that the loops depend on.

    Attributes:
        geometry: what to compute.
        machine: has the instruction set.
        block_vectors: vectors of sums of a block of output channels.
        together: tiles that are multiplied together.
        bands: parts that tiles are divided into.
    """

    geometry: Geometry
    machine: Machine
    block_vectors: int
    together: int
    bands: int

    @classmethod
    def choose(cls, geometry: Geometry, machine: Machine) -> WinogradPlan | None:
        """Return the cheapest plan, None if there is none."""
        vectors = -(-geometry.group_out // machine.isa.lanes)
        most = min(MOST_VECTORS, machine.isa.registers // REGISTERS_PER_VECTOR, vectors)
        blocks = (cls(geometry, machine, block_vectors=n, together=1, bands=1) for n in range(1, most + 1))
        plans = (plan for block in blocks if block.fits for plan in block._divided())
        return min(plans, key=WinogradPlan.cost, default=None)

    @property
    def fits(self) -> bool:
        """Whether input channels and weights are whole vectors of words, and output channels fill a block's."""
        loaded_together, channels = self.isa.load_bytes or self.words, self.geometry.group_out
        weights = self.steps_together * self.step_weights
        whole = self.geometry.group_in % self.words == 0 and weights % loaded_together == 0
        return whole and channels >= self.isa.lanes

    def _divided(self) -> Iterator[WinogradPlan]:
        """Yield plans with bands and with tiles that are multiplied together.

        Weights are transformed for each band, which takes as long as the products of some tiles; without bands, inputs
        may be more than the second-level cache holds, and threads share no more than the blocks.
        """
        isa, whole = self.isa, self
        if isa.load_bytes:
            free, tile_registers = isa.registers - 2 * LOADED_TOGETHER - LANE_TEMPORARIES, whole.block_vectors + 1
        else:
            free, tile_registers = isa.registers - whole.block_vectors - TEMPORARIES, whole.block_vectors
        least = min(math.ceil(whole.input_bytes / whole.cached_bytes), whole.tiles)
        bands = {1, *range(least, min(2 * least, whole.tiles) + 1, -(-least // BAND_CHOICES))}
        if whole.tiles >= TASKS:
            bands.add(TASKS)
        together = range(1, free // tile_registers + 1)
        plans = (dataclasses.replace(whole, together=n, bands=b) for b in sorted(bands) for n in together)
        yield from (p for p in plans if p.together <= p.band_tiles)

    @property
    def isa(self) -> InstructionSet:
        """The machine's instruction set."""
        return self.machine.isa

    @property
    def words(self) -> int:
        """Number of values of 16 bits in a vector."""
        return 2 * self.isa.lanes

    @property
    def depth(self) -> int:
        """How many input channels a step takes in."""
        return self.isa.int16_depth

    @property
    def steps_per_load(self) -> int:
        """How many steps' inputs of a tile are loaded at once."""
        return max(self.isa.load_bytes // WORD_BYTES // self.depth, 1)

    @property
    def half(self) -> InstructionSet | None:
        """What multiplies the last vector of an only block, if half of the lanes are enough for its channels."""
        only = self.block_vectors == -(-self.geometry.group_out // self.isa.lanes)
        return self.isa.half if only and ends_in_half(self.geometry.group_out, self.isa) else None

    def vector_isa(self, v: int) -> InstructionSet:
        """Return what multiplies a vector of a block: it has as many lanes."""
        return self.half if self.half is not None and v == self.block_vectors - 1 else self.isa

    @property
    def computed_vectors(self) -> float:
        """Number of vectors of output channels in a block."""
        return self.block_channels / self.isa.lanes

    @property
    def block_channels(self) -> int:
        """Number of output channels in a block."""
        return sum(self.vector_isa(v).lanes for v in range(self.block_vectors))

    @property
    def pixels_together(self) -> int:
        """How many pixels' channels fill whole vectors."""
        return 1 if self.half is None else 2

    @property
    def steps_together(self) -> int:
        """How many steps' weights fill whole vectors, and are transformed together."""
        return 1 if self.half is None else 2

    @property
    def vector_sums(self) -> int:
        """How many vectors of sums a vector of weights has products for."""
        return 2 // self.depth

    @property
    def step_weights(self) -> int:
        """How many weights of a block a step takes in."""
        return self.block_channels * self.depth

    @property
    def position_weights(self) -> int:
        """Number of values from the weights of a position to those of the next."""
        return _apart(self.chunk_steps * self.step_weights)

    @property
    def position_inputs(self) -> int:
        """Number of values from the transformed inputs of a position to those of the next."""
        return _apart(self.band_tiles * self.geometry.group_in)

    @property
    def chunk_steps(self) -> int:
        """Number of steps that a chunk takes in."""
        return self.chunk_channels // self.depth

    @property
    def blocks(self) -> int:
        """Number of blocks of output channels."""
        return -(-self.geometry.group_out // self.block_channels)

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
        return self.tiles * self.tile_bytes

    @property
    def tile_bytes(self) -> int:
        """Size of a tile's transformed inputs."""
        return POSITIONS * self.geometry.group_in * WORD_BYTES

    @property
    def cached_bytes(self) -> float:
        """Size of transformed inputs that stay in the second-level cache."""
        return self.machine.l2_bytes * INPUT_PART

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
        vectors = self.geometry.group_in // self.words
        vector_weights = self.words * POSITIONS * self.block_channels * WORD_BYTES
        most = max(1, int(self.machine.l2_bytes * WEIGHT_PART) // vector_weights)
        return next(n for n in range(1, vectors + 1) if vectors % n == 0 and vectors // n <= most)

    @property
    def chunk_channels(self) -> int:
        """Number of input channels in a part."""
        return self.geometry.group_in // self.chunks

    def channels(self) -> npt.NDArray[np.int64]:
        """Return the output channels of all blocks, of which the last may overlap: [blocks * block_channels]."""
        starts = tails.starts(self.block_channels, self.geometry.group_out)
        vectors = [self.vector_channel(v) + np.arange(self.vector_isa(v).lanes) for v in range(self.block_vectors)]
        return (starts[:, np.newaxis] + np.concatenate(vectors)).reshape(-1)

    def vector_channel(self, v: int) -> int:
        """Return the first channel of a vector within its block; an only block's last vector may overlap."""
        return min(v * self.isa.lanes, self.geometry.group_out - self.vector_isa(v).lanes)

    @property
    def bands_are_tasks(self) -> bool:
        """Whether each thread computes bands of its own, from inputs to outputs, or all threads each band together."""
        return self.bands % TASKS == 0

    @property
    def occupied(self) -> float:
        """How many threads' time the blocks of a band take, for each thread's worth of work, with `THREADS` of them.

        It is more than 1 where they can't be shared equally: the thread that has fewer of them waits.
        """
        if self.bands_are_tasks or not worth_threads(self.geometry, self.isa, 1):
            return 1
        return -(-self.blocks // THREADS) * THREADS / self.blocks

    @property
    def shared_bytes(self) -> int:
        """How many bytes of transformed inputs `THREADS` threads read of each other, all together."""
        if self.bands_are_tasks or not worth_threads(self.geometry, self.isa, 1):
            return 0
        return (THREADS - 1) * self.bands * self.band_tiles * self.tile_bytes

    def cost(self) -> float:
        """Return about how many instructions or cycles the convolution takes; see the module's docstring.

        It is the mean of what one thread takes and of what `THREADS` take all together.
        """
        costs, together, vectors = self._costs, self.together, self.computed_vectors
        blocks, channels = self.bands * self.blocks, self.geometry.group_in
        step = costs.product * together * vectors + costs.load * (together + self.block_vectors) + costs.step
        sums = 2 * costs.sums * together * vectors + costs.position
        products = POSITIONS * (channels / self.depth * step + self.chunks * sums)
        outputs = together * vectors * (costs.outputs + TILE * TILE * costs.finish)
        weights = channels * self.block_channels / self.words * costs.weights
        inputs = self.bands * self.band_tiles * channels / self.words * costs.inputs
        fetched = costs.fetch * max(self.band_tiles * self.tile_bytes - self.cached_bytes, 0)
        phases = 1 if self.bands_are_tasks else 2 * self.bands
        block = fetched + weights + self.groups * (products + outputs)
        shared = costs.share * self.shared_bytes / 2
        return inputs + (1 + self.occupied) / 2 * blocks * block + phases * costs.phase + shared

    @property
    def _costs(self) -> Costs:
        return INSTRUCTIONS if self.isa.load_bytes else CYCLES


def fits(operation: Operation) -> bool:
    """Return whether a convolution can be computed so, exactly: of bytes, 3x3, stride 1, and no sum is too large."""
    g = geometry_of(operation)
    shape = (g.groups, g.kernel, g.strides, g.dilation) == (1, (KERNEL, KERNEL), (1, 1), (1, 1))
    if operation.inputs[0].dtype == "int16" or not shape or min(g.out_height, g.out_width) < TILE:
        return False
    weight = operation.constants[1]
    magnitudes = np.abs(weight.reshape(len(weight), -1).astype("int64")).sum(axis=1)
    return bool((MIDDLE * magnitudes < MOST_SUM).all())


def pays(operation: Operation, machine: Machine, direct: Workload) -> bool:
    """Return whether a convolution that fits costs clearly less than a direct one.

    Args:
        operation: the convolution.
        machine: has the instruction set.
        direct: what the direct one's register tile is chosen for.
    """
    g = geometry_of(operation)
    plan = WinogradPlan.choose(g, machine)
    return plan is not None and plan.cost() < WORTH * g.batch * g.out_height * direct.cycles(direct.choose())


def _apart(values: int) -> int:
    """Return a length that is an odd number of cache lines, so that places so far apart share no set of a cache."""
    line = CACHE_LINE // WORD_BYTES
    return (-(-values // line) | 1) * line
