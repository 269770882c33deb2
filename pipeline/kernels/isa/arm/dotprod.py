"""NEON with dot products (dotprod, Armv8.2): `sdot` sums four products of signed bytes in each int32 lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from pipeline.kernels.isa.arm.neon import NEON, NeonInstructionSet
from pipeline.kernels.isa.contract import Capability
from pipeline.kernels.lib.vectors import lanes_of


@dataclass(frozen=True, kw_only=True)
class DotProductInstructionSet(NeonInstructionSet):
    """NEON with an instruction for `dot`. One of its forms takes the activations from a register's 32-bit lane.

    Attributes:
        multiply: LLVM's name of the instruction.
        weights_first: whether weights are the first factor.
    """

    multiply: str
    weights_first: bool

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products; see the base class."""
        lanes = self.lanes * self.dot_depth
        four = T.broadcast(T.reinterpret("int32", activations), self.lanes)
        return self.dot_lanes(acc, T.reinterpret(f"{self.activation_dtype}x{lanes}", four), weights)

    def multiply_block(self, acc: Any, activations: Sequence[Any], step: int, weights: Any) -> Any:
        """Return what `dot` returns, of one of the steps whose values are in one vector; see the base class."""
        (pixel,) = activations
        steps = lanes_of(pixel) // self.block_depth
        if steps == 1:
            return self.dot(acc, pixel, weights)
        return self._dot_of_lane(acc, pixel, step, weights)

    def multiply_neighbours(self, acc: Any, activations: Any, first: int, weights: Any) -> Any:
        """Return what `dot` returns, of one of the pixels whose values are in one vector; see the base class."""
        return self._dot_of_lane(acc, activations, first, weights)

    def _dot_of_lane(self, acc: Any, activations: Any, lane: int, weights: Any) -> Any:
        """Return `acc` plus the products of the four values in an int32 lane, which one form of `sdot` takes."""
        # Lanes of vectors, not a value and its broadcast: LLVM would then subtract the offset from each by itself.
        fours = T.reinterpret(f"int32x{lanes_of(activations) // self.dot_depth}", activations)
        four = T.Shuffle([fours], [lane] * self.lanes)
        values = T.reinterpret(f"{self.activation_dtype}x{self.lanes * self.dot_depth}", four)
        return self.dot_lanes(acc, values, weights)

    def sum_blocks(self, sums: Sequence[Any]) -> list[Any]:
        """Return the sums as they are: one pixel's of each lane's channel; see the base class."""
        return list(sums)

    def dot_lanes(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc` plus the sums of four products in each lane; see the base class."""
        factors = (weights, activations) if self.weights_first else (activations, weights)
        return T.call_llvm_pure_intrin(f"int32x{self.lanes}", self.multiply, acc, *factors)


NEON_DOTPROD = DotProductInstructionSet.extending(
    NEON,
    "neon_dotprod",
    adding=[Capability.LANE_DOT_PRODUCTS, Capability.NEIGHBOUR_PRODUCTS],
    dot_depth=4,
    block_channels=4,
    block_depth=4,
    multiply="llvm.aarch64.neon.sdot.v4i32.v16i8",
    weights_first=True,
)
"""Both factors of `sdot` are signed, so activations are taken minus 128."""
