"""The machine that a kernel is generated for: an instruction set, cache sizes, and measured register tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.kernels.isa.contract import InstructionSet

CACHE_LINE = 64
"""Bytes."""


@dataclass(frozen=True)
class Machine:
    """An instruction set and the caches of a CPU that has it.

    Attributes:
        isa: the instruction set.
        l1d_bytes: size of a core's first-level data cache.
        l2_bytes: size of a core's second-level cache.
        tuned: measured register tiles (mr, nv) by `register_tile.Workload.key`, which take the place of the cost
            model's choice.
    """

    isa: InstructionSet
    l1d_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    tuned: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)

    @property
    def resident_bytes(self) -> int:
        """How many bytes of weights, beside activations, stay in the first-level cache from one tile to the next."""
        return self.l1d_bytes // 2
