"""AVX512-VBMI: a table of 256 bytes in four registers, and `vpermi2b`, which looks 64 codes up in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.x86.avx512_vnni import AVX512_VNNI
from pipeline.kernels.isa.x86.avx_vnni import VnniInstructionSet
from pipeline.kernels.lib.vectors import joined, lanes_of, part


@dataclass(frozen=True, kw_only=True)
class VbmiInstructionSet(VnniInstructionSet):
    """x86 with permutations of bytes."""

    def lookup(self, codes: Any, table: Sequence[Any]) -> Any:
        """Return the table's entries for codes; see the base class.

        Each half of the table is two registers, whose 128 bytes the low 7 bits of a code choose from.
        """
        octets, lanes = 4 * self.lanes, lanes_of(codes)
        # What else is in the register doesn't matter.
        index = part(joined([codes] * -(-octets // lanes)), 0, octets)

        def half(first: Any, second: Any) -> Any:
            return T.call_llvm_pure_intrin(f"uint8x{octets}", "llvm.x86.avx512.vpermi2var.qi.512", first, index, second)

        upper = index >= T.broadcast(T.uint8(128), octets)
        return part(T.Select(upper, half(*table[2:]), half(*table[:2])), 0, lanes)


AVX512_VBMI = VbmiInstructionSet.extending(AVX512_VNNI, "avx512_vbmi", table_vectors=4)
