"""NEON with products of matrices (i8mm, Armv8.6): `usmmla` multiplies two pixels by two channels, of 8 values each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.arm.dotprod import NEON_DOTPROD, DotProductInstructionSet
from pipeline.kernels.lib.vectors import lanes_of, vector_type


@dataclass(frozen=True, kw_only=True)
class MatrixProductInstructionSet(DotProductInstructionSet):
    """NEON with `usmmla`, which multiplies unsigned by signed bytes, as does its `usdot`."""

    def multiply_block(self, acc: Any, activations: Sequence[Any], step: int, weights: Any) -> Any:
        """Return `acc` plus the sums of eight products of each of two pixels and two channels; see the base class."""
        steps = lanes_of(activations[0]) // self.block_depth
        eights = [T.reinterpret(vector_type("int64", steps), pixel) for pixel in activations]
        pixels = T.reinterpret("uint8x16", T.Shuffle(eights, [step, steps + step]))
        return self.multiply_neighbours(acc, pixels, 0, weights)

    def multiply_neighbours(self, acc: Any, activations: Any, first: int, weights: Any) -> Any:
        """Return `acc` plus the products of the two pixels of a vector; see the base class."""
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.usmmla.v4i32.v16i8", acc, activations, weights)

    def sum_blocks(self, sums: Sequence[Any]) -> list[Any]:
        """Return two pixels' four channels; see the base class."""
        pairs = [T.reinterpret("int64x2", s) for s in sums]
        return [T.reinterpret("int32x4", T.Shuffle(pairs, [pixel, 2 + pixel])) for pixel in range(2)]


NEON_I8MM = MatrixProductInstructionSet.extending(
    NEON_DOTPROD,
    "neon_i8mm",
    activation_offset=0,
    block_pixels=2,
    block_channels=2,
    block_depth=8,
    multiply="llvm.aarch64.neon.usdot.v4i32.v16i8",
    weights_first=False,
)
