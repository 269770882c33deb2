"""How a product is cut where an instruction multiplies pairs of bytes; `pair_nest` has the loops, `pairing` the pairs.

The cost model adds up what a tile's products, loads, arranging and epilogue take, in cycles. The constants were fitted
to the times of some 450 tiles of 24 layers of mobile networks and ResNets on a CPU with AVX2 (`vpmaddubsw` and
`vpmaddwd` start two in a cycle): with them, layers take 3 % longer than with the quickest tile of each, by measurement.
`benchmarks/cost_model.py` measures tiles and fits the constants, too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.packing import cut_weights
from pipeline.kernels.gemm.pairing import STEP, WINDOW, Array, Pairing, arrange, pair
from pipeline.kernels.gemm.plan import Plan, make_workload
from pipeline.kernels.gemm.register_tile import RegisterTile, Workload
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import Machine

INT_BYTES = 4
"""Of an int32 behind the order of inputs."""

EXTRA_BYTES = STEP + INT_BYTES
"""Of an extra step there: its order, and where its window begins."""

COUNTS = 2
"""How many numbers of steps stand at the end."""

MOST_ARRANGED = 16 * 1024
"""Bytes of a tile's activations that stay in the first-level cache beside weights."""

TEMPORARIES = 3
"""Registers beside accumulators and weights: ones, a pixel's values, and their products."""

DOT_CYCLES, LOAD_CYCLES = 1.0, 0.06
"""For a dot product, and for each vector of weights or pixel's values that a step loads."""

WINDOW_CYCLES = 0.56
"""To arrange a window of a pixel."""

FINISH_CYCLES, PARTIAL_LINE_CYCLES, TILE_CYCLES = 0.7, 2.5, 12
"""To finish a vector of accumulators, to store a cache line in part, and for each tile."""

WORTHWHILE = 1.05
"""Weights of 16 bits are twice as long, so they have to save some time."""

USUAL_EXTRA_STEPS = 2
"""Extra steps of a block for each vector of channels but the first one, in mobile networks and ResNets."""

EQUALLY_QUICK = 1.01
"""Layers of equal sizes have the same tile, and so the same kernel, if it takes at most so much of the quickest one's
cycles.
"""

TRIED_BLOCKS = 4
"""Channel blocks that are paired to choose a tile."""


@dataclass(frozen=True)
class PairPlan(Plan):
    """A plan for pairs of bytes.

    Attributes:
        extra: how many extra steps a channel block has.
    """

    extra: int

    @property
    def parts(self) -> tuple[Plan, ...]:
        """This plan alone."""
        return (self,)

    @property
    def windows(self) -> int:
        """Number of windows in a segment."""
        return -(-self.geometry.segment_length // WINDOW)

    @property
    def all_windows(self) -> int:
        """Number of windows in all segments."""
        return self.geometry.segments[0] * self.geometry.segments[1] * self.windows

    @property
    def total_steps(self) -> int:
        """Number of steps in all segments, without extra ones."""
        return self.all_windows * (WINDOW // STEP)

    @property
    def order_bytes(self) -> int:
        """Bytes of the order of a channel block's inputs; see `pair_nest`."""
        size = self.all_windows * WINDOW + self.extra * EXTRA_BYTES + COUNTS * INT_BYTES
        return -(-size // WINDOW) * WINDOW

    @property
    def extra_weights(self) -> int:
        """Bytes of a channel block's weights in extra steps."""
        return self.extra * STEP * self.block_channels

    def window_offsets(self) -> Array:
        """Return where each window begins, from a pixel's first value in x: [all_windows] int32."""
        g = self.geometry
        rows, columns = (np.arange(count) for count in g.segments)
        segments = np.add.outer(rows * g.dilation[0] * g.width, columns * g.dilation[1]).reshape(-1)
        starts = tails.starts(WINDOW, g.segment_length)
        return np.asarray(np.add.outer(segments * g.groups * g.group_in, starts), "int32").reshape(-1)


@dataclass(frozen=True)
class PairWorkload(Workload):
    """What tiles of pairs of bytes are chosen for.

    Attributes:
        windows: in all segments.
        extra_steps: about how many there are if a channel block has one vector, two, and so on, as far as these fit.
    """

    windows: int
    extra_steps: tuple[int, ...]

    def fits(self, tile: RegisterTile) -> bool:
        """Return whether a tile fits the registers, and its activations the first-level cache."""
        arranged = tile.mr * self.windows * WINDOW
        return _fits_registers(tile, self.machine) and (tile.mr == 1 or arranged <= MOST_ARRANGED)

    def candidates(self) -> list[RegisterTile]:
        """Return all tiles that fit the registers, the cheapest first, or one before it that depends on sizes alone."""
        quickest_first = super().candidates()
        usual = tuple(USUAL_EXTRA_STEPS * i for i in range(len(self.extra_steps)))
        if self.extra_steps == usual:
            return quickest_first
        tile = dataclasses.replace(self, extra_steps=usual).candidates()[0]
        if self.cycles(tile) > EQUALLY_QUICK * self.cycles(quickest_first[0]):
            return quickest_first
        return [tile, *(each for each in quickest_first if each != tile)]

    def cycles(self, tile: RegisterTile) -> float:
        """Return about how long a row takes with a tile."""
        steps = self.windows * (WINDOW // STEP) + self.extra_steps[tile.nv - 1]
        products = steps * (DOT_CYCLES * tile.mr * tile.nv + LOAD_CYCLES * (tile.mr + tile.nv))
        arranging = WINDOW_CYCLES * tile.mr * self.windows
        epilogue = FINISH_CYCLES * self.finished_vectors(tile) + PARTIAL_LINE_CYCLES * self.partial_lines(tile)
        tiles = -(-self.pixels // tile.mr) * -(-self.vectors // tile.nv)
        return tiles * (products + arranging + epilogue + TILE_CYCLES)


def make_pair_workload(geometry: Geometry, machine: Machine, weight: Array) -> PairWorkload | None:
    """Return what a tile of pairs of bytes is chosen for.

    None if the instruction set doesn't multiply them, segments are too short, or widened values are quicker: where
    there are few inputs, many find no partner.

    Args:
        geometry: of the layer.
        machine: has the instruction set.
        weight: OHWI or OI int8, of the whole layer.
    """
    if not isinstance(machine.isa, PairwiseInstructionSet):
        return None
    work = make_workload(geometry, machine, STEP, "int8")
    single = _plan(geometry, machine, RegisterTile(1, 1), work.vectors)
    if single.geometry.segment_length < WINDOW:
        return None
    vectors = cut_weights(single, weight, WINDOW)
    fitting = [nv for nv in range(1, work.vectors + 1) if _fits_registers(RegisterTile(1, nv), machine)]
    extra = tuple(int(pair(_some_blocks(vectors, nv)).used_extra.max()) for nv in fitting)
    fields = {field.name: getattr(work, field.name) for field in dataclasses.fields(work)}
    pairs = PairWorkload(**fields, windows=single.all_windows, extra_steps=extra)
    pair_cycles, widened_cycles = (each.cycles(each.candidates()[0]) for each in (pairs, work))
    return pairs if pair_cycles < WORTHWHILE * widened_cycles else None


def make_pair_plan(
    geometry: Geometry, machine: Machine, weight: Array, workload: PairWorkload
) -> tuple[PairPlan, Pairing]:
    """Return the plan, and how inputs are paired; the arguments are those of `make_pair_workload`, and its result."""
    plan = _plan(geometry, machine, workload.choose(), workload.vectors)
    pairing = pair(cut_weights(plan, weight, WINDOW))
    return dataclasses.replace(plan, extra=pairing.extra), pairing


def _plan(geometry: Geometry, machine: Machine, tile: RegisterTile, vectors: int) -> PairPlan:
    """Return a plan without extra steps."""
    g = geometry.flattened().merged(machine.isa.lanes)
    return PairPlan(g, machine, STEP, tile, vectors, steps_per_load=1, loads_together=1, extra=0)


def _fits_registers(tile: RegisterTile, machine: Machine) -> bool:
    return tile.mr * tile.nv + tile.nv + TEMPORARIES <= machine.isa.registers


def _some_blocks(vectors: Array, nv: int) -> Array:
    """Return some blocks of `nv` vectors of channels each, evenly distributed: [blocks, channels, windows, WINDOW]."""
    last = max(len(vectors) - nv, 0)
    starts = np.unique(np.linspace(0, last, min(TRIED_BLOCKS, last + 1)).astype("int64"))
    return np.stack([vectors[start : start + nv].reshape(-1, *vectors.shape[2:]) for start in starts])


def pack_pairs(plan: PairPlan, pairing: Pairing, weight: Array) -> tuple[Array, Array, Array]:
    """Return weights, the order of their inputs, and weights of extra steps, as the nest reads them: see `pair_nest`.

    The first ones have no more values than the layer, apart from lanes and places without an input. The others can be
    compressed: an order takes little more than a byte, and extra steps are mostly zeros.
    """
    cut = cut_weights(plan, weight, WINDOW)
    ordered, extra = arrange(cut, pairing)
    offsets = plan.window_offsets()[pairing.extra_windows][..., np.newaxis]
    extra_steps = np.concatenate([pairing.extra_order, np.ascontiguousarray(offsets).view("uint8")], axis=-1)
    used = pairing.used_extra
    counts = np.stack([np.full_like(used, plan.total_steps), used], axis=-1).astype("int32")
    front = np.concatenate([each.reshape(len(cut), -1) for each in (pairing.order, extra_steps)], axis=1)
    front = np.pad(front, ((0, 0), (0, plan.order_bytes - COUNTS * INT_BYTES - front.shape[1])))
    orders = np.concatenate([front, counts.view("uint8")], axis=1)
    steps = ordered.reshape(*cut.shape[:2], -1, STEP).transpose(0, 2, 1, 3)
    return steps.reshape(-1), orders.reshape(-1), extra.transpose(0, 2, 1, 3).reshape(-1)
