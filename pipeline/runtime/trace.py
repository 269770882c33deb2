"""Times a library's kernels one by one, by the stopwatch that is part of it (`library/library.c`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ArtifactError

STOPWATCH = "pipeline_stopwatch"
"""The function of a library that lets a virtual machine note how long each kernel takes."""

_COUNT, _CAPACITY, _DURATIONS = 0, 1, 4
"""Indices into the stopwatch's values; between them is what it needs itself."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KernelTime:
    """How long one call of a kernel took, in seconds, each time that it was measured."""

    kernel: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """How long runs took, and the kernels in others.

    Attributes:
        runs: seconds of whole runs, without the stopwatch.
        kernels: every kernel call, in order; the i-th times of all of them are one run with it.
    """

    runs: tuple[float, ...]
    kernels: tuple[KernelTime, ...]

    @property
    def passes(self) -> tuple[float, ...]:
        """Seconds of all kernels of a run together."""
        return tuple(sum(times) for times in zip(*(k.seconds for k in self.kernels), strict=True))

    @property
    def overhead(self) -> float:
        """Share of a run that isn't spent in kernels: the runtime's dispatch, allocation, and checks of inputs.

        The median over all runs, each compared with the pass that followed it: neighbours in time meet the same load.
        Below zero where the load changes by more than the overhead.
        """
        return statistics.median(1 - kernels / run for kernels, run in zip(self.passes, self.runs, strict=True))


def new_times(kernels: int) -> Times:
    """Return the values of a stopwatch that isn't used yet.

    Args:
        kernels: how many durations there is room for.
    """
    times = np.zeros(_DURATIONS + kernels, "int64")
    times[_CAPACITY] = kernels
    return times


def alternate(run: Callable[[], float], times: Callable[[], Times], kernels: Sequence[str], repeats: int) -> Trace:
    """Measure whole runs and the kernels of runs in turn, so that a change of the machine's speed meets both.

    Args:
        run: makes a run, and returns its seconds.
        times: starts the stopwatch, makes a run, and returns the stopwatch's values.
        kernels: names of the kernels, in order.
        repeats: how often both are done. One of each comes before, as they use different memory.

    Raises:
        ArtifactError: the library calls more or fewer kernels.
    """
    runs: list[float] = []
    passes: list[Any] = []
    for _ in range(repeats):
        run()
        runs.append(run())
        times()
        values = times()
        if values[_COUNT] != len(kernels):
            raise ArtifactError(
                f"The library calls {values[_COUNT]} kernels, its metadata lists {len(kernels)}. Build it again."
            )
        # No call takes no time; the clock, of which the time to read it is subtracted, may say so.
        passes.append((np.maximum(values[_DURATIONS:], 1) * 1e-9).tolist())
    seconds = zip(*passes, strict=True)
    return Trace(tuple(runs), tuple(KernelTime(name, each) for name, each in zip(kernels, seconds, strict=True)))
