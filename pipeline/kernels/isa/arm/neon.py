"""NEON: 128-bit vectors with 32 registers (arm64 without dot products)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.contract import Array, Capability, InstructionSet
from pipeline.kernels.isa.portable import PORTABLE
from pipeline.kernels.lib.vectors import lanes_of, part, repeated


@dataclass(frozen=True)
class NeonInstructionSet(InstructionSet):
    """The portable vectors, and `tbl`, which looks bytes up in four registers."""

    def arrange_table(self, table: Array) -> Array:
        """Return a table as it is; see the base class."""
        return table

    def lookup(self, indices: Any, table: Sequence[Any]) -> Any:
        """Return the table's entries; see the base class.

        Four instructions: each looks in 64 entries, and `tbx` leaves bytes of other indices as they are.
        """
        octets, lanes = 4 * self.lanes, lanes_of(indices)
        every = repeated(indices, octets)
        result: Any = None
        for quarter in range(4):
            index = every - T.broadcast(T.uint8(64 * quarter), octets)
            operands = [*table[4 * quarter : 4 * quarter + 4], index]
            name, operands = ("tbl4", operands) if result is None else ("tbx4", [result, *operands])
            result = T.call_llvm_pure_intrin("uint8x16", f"llvm.aarch64.neon.{name}.v16i8", *operands)
        return part(result, 0, lanes)


NEON = NeonInstructionSet.extending(PORTABLE, "neon", adding=[Capability.TABLE_LOOKUP], registers=32, table_vectors=16)
