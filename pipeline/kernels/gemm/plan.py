"""How convolutions and matrix products are divided into register tiles."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.lane_tile import BlockWorkload, LaneWorkload, WordWorkload
from pipeline.kernels.gemm.panel_tile import PanelWorkload, cheaper, fits_panels
from pipeline.kernels.gemm.register_tile import Ending, RegisterTile, Workload, tail_vectors
from pipeline.kernels.gemm.widened_tile import make_vector_workload
from pipeline.kernels.gemm.zero_rows import LeftOut
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import Machine

Array = npt.NDArray[Any]

BYTES_PER_LANE = 4
"""Of a vector; a step's weights take as much, or more."""

MIN_BLOCK_SEGMENT = 16
"""Shorter segments don't fill a load."""


@dataclass(frozen=True)
class Plan:
    """Everything that the loop nest depends on.

    Attributes:
        geometry: what to compute.
        machine: has the instruction set.
        depth: how many values a step takes in.
        tile: the register tile.
        vectors: vectors of output channels in a group.
        steps_per_load: how many steps' values of a pixel are loaded at once.
        loads_together: how many of these loads there are in the body of a loop.
        panels: whether activations are copied to panels; see `panel_nest`.
        weight_bits: how many bits weights are stored in: 8, or 4; see `nest`.
        leaves_out: whether products of rows of padding are left out; see `zero_rows`.
        half: whether the last vector of a channel block has half of the lanes.
    """

    geometry: Geometry
    machine: Machine
    depth: int
    tile: RegisterTile
    vectors: int
    steps_per_load: int
    loads_together: int
    panels: bool = field(default=False, kw_only=True)
    weight_bits: int = field(default=8, kw_only=True)
    leaves_out: bool = field(default=False, kw_only=True)
    half: bool = field(default=False, kw_only=True)

    @property
    def isa(self) -> InstructionSet:
        """The machine's instruction set."""
        return self.machine.isa

    @property
    def narrow(self) -> bool:
        """Whether a group has fewer output channels than a vector has lanes."""
        return self.geometry.group_out < self.isa.lanes

    @property
    def blocks(self) -> int:
        """Number of channel blocks in a group."""
        return -(-self.vectors // self.tile.nv)

    @property
    def parts(self) -> tuple[Plan, ...]:
        """Plans for the channels of all whole blocks and for the tail, the channels that are left; or this plan alone.

        A tail has a tile of fewer vectors. Where it wouldn't save much, the last block overlaps the one before instead.
        """
        vector_bytes = self.total_steps * self.isa.lanes * max(self.depth, BYTES_PER_LANE)
        left = tail_vectors(self.vectors, self.tile.nv, vector_bytes)
        if self.geometry.groups > 1 or left == 0:
            return (self,)
        return self._part(self.vectors - left, self.tile.nv), self._part(left, left)

    def _part(self, vectors: int, nv: int) -> Plan:
        geometry = dataclasses.replace(self.geometry, group_out=vectors * self.isa.lanes)
        return dataclasses.replace(self, geometry=geometry, vectors=vectors, tile=dataclasses.replace(self.tile, nv=nv))

    @property
    def steps(self) -> int:
        """Number of steps in a segment."""
        return -(-self.geometry.segment_length // self.depth)

    @property
    def steps_at_end(self) -> int:
        """How many steps of a segment end where it does: those whose values one load brings, or the last one."""
        together = max(self.steps_per_load, 1)
        left = self.steps - self.geometry.segment_length // (together * self.depth) * together
        return left if 0 < left <= together and left < self.steps else 1

    @property
    def total_steps(self) -> int:
        """Number of steps in all segments."""
        return self.geometry.segments[0] * self.geometry.segments[1] * self.steps

    @property
    def block_weights(self) -> int:
        """Number of packed values of a channel block."""
        return self.total_steps * self.block_channels * self.depth

    @property
    def left_out(self) -> LeftOut:
        """Which rows of the kernel are left out."""
        return LeftOut(self.geometry, self.tile.lines)

    @property
    def int4_run(self) -> int:
        """How many weights of 4 bits are unpacked at once from the low bits of as many bytes: a vector of them at most.

        The same number of bytes' high bits come next; runs end where channel blocks do.
        """
        return math.gcd(BYTES_PER_LANE * self.isa.lanes, *(part.block_weights // 2 for part in self.parts))

    @property
    def block_channels(self) -> int:
        """Number of output channels in a block, if it is full."""
        return sum(self.vector_lanes(v) for v in range(self.tile.nv))

    def vector_lanes(self, v: int) -> int:
        """Return how many channels a vector of a block has."""
        is_half = self.half and v == self.tile.nv - 1
        return self.isa.half.lanes if is_half and self.isa.half is not None else self.isa.lanes

    def vector_channel(self, v: int) -> int:
        """Return the first channel of a vector within its block; an only block's last vector may overlap."""
        return min(v * self.isa.lanes, max(self.geometry.group_out - self.vector_lanes(v), 0))

    def channels(self) -> Array:
        """Return the output channel, within its group, of each packed lane: [blocks * block_channels] int."""
        blocks = tails.starts(self.block_channels, self.geometry.group_out)
        vectors = [self.vector_channel(v) + np.arange(self.vector_lanes(v)) for v in range(self.tile.nv)]
        return np.asarray((blocks[:, None] + np.concatenate(vectors)).reshape(-1))


def make_plan(geometry: Geometry, machine: Machine, depth: int, dtype: str, *, ending: Ending | None = None) -> Plan:
    """Return the plan for a geometry.

    Args:
        geometry: what to compute.
        machine: has the instruction set.
        depth: how many values a step takes in: the instruction set's `dot_depth` or `int16_depth`, or 1.
        dtype: what is computed: "int8", "int16" or "float32".
        ending: what the reduction ends in, if it is more than rounding.
    """
    workload = make_workload(geometry, machine, depth, dtype, ending=ending)
    g = geometry.flattened().merged(machine.isa.lanes)
    together = _steps_per_load(g, machine.isa, dtype)
    plan = _with_tile(g, depth, workload, together)
    return dataclasses.replace(plan, half=workload.ends_in_half(plan.tile))


def _with_tile(geometry: Geometry, depth: int, workload: Workload, steps_per_load: int) -> Plan:
    """Return a plan with the tile that is best for a workload."""
    tile, panels = workload.choose(), isinstance(workload, PanelWorkload)
    loads = workload.loads_together(tile)
    return Plan(geometry, workload.machine, depth, tile, workload.vectors, steps_per_load, loads, panels=panels)


def make_workload(
    geometry: Geometry, machine: Machine, depth: int, dtype: str, *, ending: Ending | None = None
) -> Workload:
    """Return what a tile is chosen for; see `make_plan`."""
    g = geometry.flattened().merged(machine.isa.lanes)
    steps = g.segments[0] * g.segments[1] * -(-g.segment_length // depth)
    shape = (g.out_width, g.group_out, g.groups * g.group_out, steps, dtype, machine)
    together = _steps_per_load(g, machine.isa, dtype)
    if together > 1:
        lanes = LaneWorkload(*shape, together)
        if not fits_panels(g, machine.isa, dtype):
            return lanes
        return cheaper(lanes, PanelWorkload(*shape, together, g.out_height, math.prod(g.segments), False, g))
    return make_vector_workload(*shape, ending=ending)


def _steps_per_load(geometry: Geometry, isa: InstructionSet, dtype: str) -> int:
    """Return how many steps' values of a pixel are loaded at once: as many as a segment has, or one."""
    steps = isa.load_bytes // np.dtype(dtype).itemsize
    return steps if dtype == "float32" and geometry.segment_length >= steps else 1


def fits_blocks(geometry: Geometry) -> bool:
    """Return whether products of blocks are worth their while."""
    return geometry.flattened().segment_length >= MIN_BLOCK_SEGMENT


def make_block_plan(geometry: Geometry, machine: Machine, stored: str) -> Plan:
    """Return the plan of a product of blocks of bytes, with activations that are stored in a dtype.

    See `block_nest`, and for int16 `word_nest`.
    """
    workload = make_block_workload(geometry, machine, stored)
    g = geometry.flattened().merged(machine.isa.lanes)
    plan = _with_tile(g, machine.isa.block_depth, workload, workload.steps_per_load)
    return dataclasses.replace(plan, leaves_out=plan.left_out.works)


def make_block_workload(geometry: Geometry, machine: Machine, stored: str) -> BlockWorkload:
    """Return what the tile of a product of blocks is chosen for; see `make_block_plan`."""
    isa, g = machine.isa, geometry.flattened().merged(machine.isa.lanes)
    steps = g.segments[0] * g.segments[1] * -(-g.segment_length // isa.block_depth)
    shape = (
        g.out_width,
        g.group_out,
        g.groups * g.group_out,
        steps,
        "int16" if stored == "int16" else "int8",
        machine,
        isa.load_bytes // isa.block_depth,
        g.out_height,
        math.prod(g.segments),
        stored != isa.activation_dtype,
    )
    if stored == "int16":
        return WordWorkload(*shape)
    blocks = BlockWorkload(*shape)
    return cheaper(blocks, PanelWorkload(*shape, g)) if fits_panels(g, isa, "int8") else blocks
