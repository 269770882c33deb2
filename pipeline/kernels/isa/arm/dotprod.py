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
        # Lanes of vectors, not a value and its broadcast: LLVM would then subtract the offset from each by itself.
        four = T.Shuffle([T.reinterpret(f"int32x{steps}", pixel)], [step] * self.lanes)
        return self.dot_lanes(
            acc, T.reinterpret(f"{self.activation_dtype}x{self.lanes * self.dot_depth}", four), weights
        )

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
    adding=[Capability.LANE_DOT_PRODUCTS],
    dot_depth=4,
    block_channels=4,
    block_depth=4,
    multiply="llvm.aarch64.neon.sdot.v4i32.v16i8",
    weights_first=True,
)
"""Both factors of `sdot` are signed, so activations are taken minus 128."""
