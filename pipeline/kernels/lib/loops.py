"""Loops over tensors for element-wise kernels: whole vectors, of which the last may overlap, divided among threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

PARALLEL_ELEMENTS = 65_536
"""Tensors with fewer elements are computed by the calling thread, as waking other threads costs more than it saves."""

MAX_UNROLLED_TAPS = 16
"""Windows and rows of depthwise kernels with more taps than this are loops, even if all taps are inside the image."""

MAX_TASKS = 64
"""How many parts a long run of elements is divided into for the threads."""


def loop_for(elements: int, iterations: int) -> Any:
    """Return the kind of the outer loop: parallel if there are enough elements, else serial."""
    return T.parallel if elements >= PARALLEL_ELEMENTS and iterations > 1 else T.serial


@dataclass(frozen=True)
class Run:
    """A run of `length` neighbouring elements, computed in vectors of `width` by `tasks` * `steps` iterations.

    The last vectors overlap, so that every element is computed at least once and none outside of the run is accessed.
    """

    length: int
    width: int
    tasks: int
    steps: int

    @classmethod
    def of(cls, length: int, width: int, max_tasks: int = 1) -> Run:
        """Divide a run into vectors, in up to `max_tasks` tasks.

        Args:
            length: number of elements.
            width: elements of a vector. A shorter run gets the largest power of two that fits, as LLVM cuts vectors of
                other lengths into many small pieces.
            max_tasks: most tasks.
        """
        width = min(width, 1 << (length.bit_length() - 1))
        vectors = -(-length // width)
        steps = -(-vectors // max_tasks)
        return cls(length, width, -(-vectors // steps), steps)

    def start(self, task: Any, step: Any) -> Any:
        """Return the first element of a vector."""
        first = (task * self.steps + step) * self.width
        exact = self.tasks * self.steps * self.width == self.length
        return first if exact else T.min(first, self.length - self.width)
