"""What an instruction set offers to a kernel generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InstructionSet:
    """A micro-kernel's vocabulary: sizes, and the dot product that its loops are built around.

    The base class says it in plain vector arithmetic, which LLVM turns into whatever the CPU has; a subclass with a
    better instruction overrides `dot` and raises `dot_depth`.

    Attributes:
        name: as in the registry and in targets/*.toml.
        parent: the instruction set that this one extends; None for the portable one.
        lanes: how many int32 or float32 values one vector register holds.
        registers: how many vector registers there are.
        dot_depth: how many 8-bit products `dot` sums into each int32 lane.
    """

    name: str
    parent: InstructionSet | None
    lanes: int
    registers: int
    dot_depth: int = 1

    def lineage(self) -> tuple[InstructionSet, ...]:
        """Return this instruction set and its ancestors, nearest first."""
        return (self,) if self.parent is None else (self, *self.parent.lineage())

    def dot(self, acc: Any, activations: Any, weights: Any) -> Any:
        """Return `acc + sum over dot_depth of activations * weights`, a TIR expression.

        Args:
            acc: int32 vector of `lanes`.
            activations: uint8 vector of `dot_depth` neighbouring channels of one pixel, the same for all lanes.
            weights: int8 vector of `lanes * dot_depth`, for each lane its `dot_depth` values together.
        """
        from tvm.script import tirx as T

        if self.dot_depth != 1:
            raise TypeError(f"{self.name} sums {self.dot_depth} products and must define its own dot")
        return acc + T.broadcast(T.cast(activations, "int32"), self.lanes) * T.cast(weights, f"int32x{self.lanes}")
