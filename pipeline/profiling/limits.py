"""What a machine can do at most, measured: multiply-adds each second, and bytes by the size of the working set.

Together they are the roofline (S. Williams, A. Waterman, D. Patterson, 2009) that operators are compared with.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from pipeline.errors import BuildError
from pipeline.runtime.tensors import aligned
from pipeline.schema import Record

if TYPE_CHECKING:
    from pipeline.runtime.library_runner import LibraryRunner

COPY_BUFFER_BYTES = 32 * 1024**2
"""Of each of the two buffers of the copy: beyond most caches."""

SMALLEST_COPY_BYTES = 8 * 1024
"""Read and written by the smallest copy that is timed; each next one is twice as large."""

COPIED_BYTES = 16 * 1024**2
"""How much small copies move in one measurement, by repetition."""

REPEATS = 8
"""Measurements of each kind; the shortest counts."""


CANNOT_BUILD = 3
"""What the process that builds the probes ends with if that can't be done, and it has said why."""


class ProbeSizes(Record, frozen=True, kw_only=True):
    """What the library of probes expects.

    Attributes:
        vector_bytes: of one step of the copy.
        buffers: (elements, dtype) of the peak's buffers, by "int8" and "float32".
        multiply_adds: that one task of the peak does, by "int8" and "float32".
    """

    vector_bytes: int
    buffers: dict[str, tuple[tuple[int, str], ...]]
    multiply_adds: dict[str, int]


@dataclass(frozen=True)
class Limits:
    """What a machine does at most, with the instruction set and the number of threads of a library's run.

    Attributes:
        int8, float32: multiply-adds each second, from registers.
        copies: (bytes read and written, bytes each second), by increasing size.
    """

    int8: float
    float32: float
    copies: tuple[tuple[int, float], ...]

    def peak(self, in_float: bool) -> float:
        """Return multiply-adds each second."""
        return self.float32 if in_float else self.int8

    def bandwidth(self, moved: int) -> float:
        """Return the bytes each second of a copy that reads and writes `moved` bytes in all, over and over."""
        sizes, speeds = zip(*self.copies, strict=True)
        return float(np.interp(np.log2(max(moved, 1)), np.log2(sizes), speeds))

    def seconds(self, multiply_adds: int, moved: int, in_float: bool) -> float:
        """Return the shortest time in which an operator could be done: the longer one of computing and moving."""
        return max(multiply_adds / self.peak(in_float), moved / self.bandwidth(moved))


def measure_limits(runner: LibraryRunner, library: Path) -> Limits:
    """Measure a runner's machine, in its thread and with its threads.

    Args:
        runner: of the library.
        library: tells which instruction set to use.

    Raises:
        BuildError: the probes can't be built, for the library's target, say, as it is linked in an unknown way. That
            needs the compiler, which runs in a process of its own.
    """
    with tempfile.TemporaryDirectory(prefix="pipeline-probe-") as folder:
        probes = Path(folder) / "probes.so"
        sizes = _build(library, probes)
        int8, float32 = (_peak(runner, probes, sizes, dtype) for dtype in ("int8", "float32"))
        return Limits(int8, float32, _copies(runner, probes, sizes.vector_bytes))


def _build(library: Path, probes: Path) -> ProbeSizes:
    command = [sys.executable, "-m", f"{__package__}.probe_library", str(library), str(probes)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == CANNOT_BUILD:
        raise BuildError(
            f"The loops that measure the machine can't be built. {result.stderr.strip()} Profile without limits."
        )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
    return msgspec.json.decode(result.stdout, type=ProbeSizes)


def _peak(runner: LibraryRunner, probes: Path, sizes: ProbeSizes, dtype: str) -> float:
    arrays = [aligned(np.ones(elements, kind)) for elements, kind in sizes.buffers[dtype]]
    (seconds,) = runner.time_function(probes, f"peak_{dtype}", arrays, [(runner.num_threads,)], REPEATS)
    return runner.num_threads * sizes.multiply_adds[dtype] / min(seconds)


def _copies(runner: LibraryRunner, probes: Path, vector_bytes: int) -> tuple[tuple[int, float], ...]:
    buffers = [aligned(np.ones(COPY_BUFFER_BYTES, "uint8")) for _ in range(2)]
    sizes = [SMALLEST_COPY_BYTES]
    while 2 * sizes[-1] <= 2 * COPY_BUFFER_BYTES:
        sizes.append(2 * sizes[-1])
    tasks = runner.num_threads
    vectors = [max(1, moved // (2 * vector_bytes * tasks)) for moved in sizes]
    rounds = [max(1, COPIED_BYTES // moved) for moved in sizes]
    numbers = [(count, times, tasks) for count, times in zip(vectors, rounds, strict=True)]
    seconds = runner.time_function(probes, "copy", buffers, numbers, REPEATS)
    moved_bytes = [2 * count * vector_bytes * tasks * times for count, times in zip(vectors, rounds, strict=True)]
    return tuple((moved, total / min(each)) for moved, total, each in zip(sizes, moved_bytes, seconds, strict=True))
