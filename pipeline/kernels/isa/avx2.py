"""AVX2: 256-bit vectors. `vpmaddwd` multiplies 16-bit values and sums neighbouring products into int32, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.base import InstructionSet
from pipeline.kernels.isa.portable import PORTABLE


@dataclass(frozen=True)
class PairwiseMultiplyAdd(InstructionSet):
    """An x86 instruction set whose `dot` is `vpmaddwd` and an add.

    `vpmaddubsw`, which takes bytes, saturates its sums to 16 bits and so isn't exact.

    Attributes:
        intrinsic: LLVM's name of `vpmaddwd` for the vector width.
    """

    intrinsic: str = ""

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of two products; see the base class."""
        pair = T.reinterpret("int32", T.cast(activations, "int16x2"))
        pairs = T.reinterpret(f"int16x{2 * self.lanes}", T.broadcast(pair, self.lanes))
        return acc + T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.intrinsic, pairs, weights)


AVX2 = PairwiseMultiplyAdd(
    name="avx2",
    parent=PORTABLE,
    lanes=8,
    registers=16,
    dot_depth=2,
    weight_dtype="int16",
    intrinsic="llvm.x86.avx2.pmadd.wd",
)
