"""TimerValues a library's kernels one by one, with the timer that is part of every library (`library/library.c`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ArtifactError

TIMER_FUNCTION = "pipeline_time_kernels"
"""The function of a library after which a virtual machine notes how long each kernel takes."""

_COUNT, _CAPACITY, _DURATIONS = 0, 1, 4
"""Indices into the timer's values; those between `_CAPACITY` and `_DURATIONS` are the timer's own."""

TimerValues = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KernelTime:
    """How long one call of a kernel took, in seconds, each time that it was measured."""

    kernel: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """How long whole runs took, and how long each kernel took in other runs.

    Attributes:
        runs: seconds of whole runs, with the kernels' timer switched off.
        kernels: every kernel call, in order. The i-th times of all kernels belong to one run with the timer.
    """

    runs: tuple[float, ...]
    kernels: tuple[KernelTime, ...]

    @property
    def passes(self) -> tuple[float, ...]:
        """For each run with the timer, the seconds of all its kernels together."""
        return tuple(sum(times) for times in zip(*(k.seconds for k in self.kernels), strict=True))

    @property
    def overhead(self) -> float:
        """Share of a run that isn't spent in kernels: the runtime's dispatch, allocation, and checks of inputs.

        Each run is compared with the pass over the kernels that came next, as the machine's load was about the same
        then, and the median of the shares counts. It is below zero where the load changed by more than the overhead.
        """
        return statistics.median(1 - kernels / run for kernels, run in zip(self.passes, self.runs, strict=True))


def new_timer_values(kernels: int) -> TimerValues:
    """Return the values with which a timer starts: int64, the first four its own, then a duration for each kernel.

    Args:
        kernels: how many kernel calls there is room for.
    """
    times = np.zeros(_DURATIONS + kernels, "int64")
    times[_CAPACITY] = kernels
    return times


def measure_alternately(
    run: Callable[[], float], times: Callable[[], TimerValues], kernels: Sequence[str], repeats: int
) -> Trace:
    """Measure whole runs and the kernels of runs in turn, so that a change of the machine's speed meets both.

    Args:
        run: makes a run, and returns its seconds.
        times: starts the timer, makes a run, and returns the timer's values, durations in nanoseconds.
        kernels: names of the kernels, in order.
        repeats: how often both are done. Each is done twice, and the second time counts: they use different memory,
            so that the first one finds the caches filled by the other.

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
        # The time that reading the clock takes is subtracted, so that a very short call may seem to take none.
        passes.append((np.maximum(values[_DURATIONS:], 1) * 1e-9).tolist())
    seconds = zip(*passes, strict=True)
    return Trace(tuple(runs), tuple(KernelTime(name, each) for name, each in zip(kernels, seconds, strict=True)))
