"""How element-wise kernels walk over their tensors: vectors with an overlapping last one, shared out to threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

PARALLEL_ELEMENTS = 65_536
"""Smaller tensors are done on the calling thread: waking the pool costs more than it saves."""

MAX_UNROLLED_TAPS = 16
"""Windows, and rows of depthwise kernels, of more taps are loops, even where all taps are inside the image."""

MAX_TASKS = 64
"""Into how many pieces a long run of elements is cut for the threads."""


def loop_for(elements: int, iterations: int) -> Any:
    """Return the kind of the outer loop: parallel if there is enough to do."""
    return T.parallel if elements >= PARALLEL_ELEMENTS and iterations > 1 else T.serial


@dataclass(frozen=True)
class Run:
    """A run of `length` neighbouring elements, done `width` at a time by `tasks` * `steps` iterations.

    The last vectors overlap, so every element is done at least once and none outside is touched.
    """

    length: int
    width: int
    tasks: int
    steps: int

    @classmethod
    def of(cls, length: int, width: int, max_tasks: int = 1) -> Run:
        """Cut a run into vectors, in up to `max_tasks` tasks.

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
