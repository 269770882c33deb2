"""Loops over tensors for element-wise kernels: whole vectors, of which the last may overlap, divided among threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def over_channels(size: int, channels: int, width: int) -> Iterator[tuple[Any, Any, int]]:
    """Loop over the vectors of a tensor [...,C] such that none has values of two rows of channels, rows in parallel.

    Args:
        size: elements of the tensor.
        channels: C.
        width: elements of a vector; fewer, if there aren't as many channels.

    Yields:
        The number of a vector's first element, that of its first channel, and its width.
    """
    rows, run = size // channels, Run.of(channels, width)
    per_task = -(-rows // MAX_TASKS)
    tasks = -(-rows // per_task)
    with loop_for(size, tasks)(tasks) as task:
        first = task * per_task
        with T.serial(T.min(per_task, rows - first)) as r, T.serial(run.steps) as step:
            channel = run.start(0, step)
            yield (first + r) * channels + channel, channel, run.width


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
