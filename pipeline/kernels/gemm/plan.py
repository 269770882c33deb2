"""How convolutions and matrix products are cut into register tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.gemm.register_tile import RegisterTile, Workload
from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.lib import tails
from pipeline.kernels.machine import Machine

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Plan:
    """Everything the loop nest depends on."""

    geometry: Geometry
    machine: Machine
    depth: int
    tile: RegisterTile
    vectors: int

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
    def steps(self) -> int:
        """Number of steps in a segment."""
        return -(-self.geometry.segment_length // self.depth)

    @property
    def block_channels(self) -> int:
        """Number of output channels in a block, if it is full."""
        return self.tile.nv * self.isa.lanes

    def vector_channel(self, v: int) -> int:
        """Return the first channel of a vector within its block; an only block's last vector may overlap."""
        return int(tails.start(v, self.isa.lanes, self.geometry.group_out))

    def channels(self) -> Array:
        """Return the output channel, within its group, of each packed lane: [blocks * nv * lanes] int."""
        blocks = tails.starts(self.block_channels, self.geometry.group_out)
        vectors = np.array([self.vector_channel(v) for v in range(self.tile.nv)])
        starts = blocks[:, None] + vectors
        return np.asarray((starts[..., None] + np.arange(self.isa.lanes)).reshape(-1))


def make_plan(geometry: Geometry, machine: Machine, depth: int, dtype: str) -> Plan:
    """Return the plan for a geometry.

    Args:
        geometry: what to compute.
        machine: has the instruction set.
        depth: how many values a step takes in: the instruction set's `dot_depth`, or 1.
        dtype: what is computed: "int8" or "float32".
    """
    workload = make_workload(geometry, machine, depth, dtype)
    return Plan(geometry.flattened().merged(machine.isa.lanes), machine, depth, workload.choose(), workload.vectors)


def make_workload(geometry: Geometry, machine: Machine, depth: int, dtype: str) -> Workload:
    """Return what a tile is chosen for; see `make_plan`."""
    g = geometry.flattened().merged(machine.isa.lanes)
    steps = g.segments[0] * g.segments[1] * -(-g.segment_length // depth)
    return Workload(g.out_width, g.group_out, g.groups * g.group_out, steps, dtype, machine)
