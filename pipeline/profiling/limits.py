"""Measures the limits of a machine: multiply-adds each second, and bytes each second by the size of the working set.

Both together are the roofline model, with which operators are compared: S. Williams, A. Waterman, D. Patterson,
"Roofline: An Insightful Visual Performance Model for Multicore Architectures", 2009.
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
"""Size of each of the two buffers of the largest copy: more than most caches."""

SMALLEST_COPY_BYTES = 8 * 1024
"""How many bytes the smallest copy reads and writes. Each next copy is twice as large."""

COPIED_BYTES = 16 * 1024**2
"""How many bytes a measurement moves at least; smaller copies are repeated."""

REPEATS = 8
"""How often each is measured; the shortest time counts."""


CANNOT_BUILD = 3
"""Exit code of the process that builds the probes if that isn't possible; it has printed the reason then."""


class ProbeSizes(Record, frozen=True, kw_only=True):
    """The arguments that the functions in the library of probes expect.

    Attributes:
        vector_bytes: how many bytes one step of `copy` copies.
        buffers: (elements, dtype) of the buffers of `peak_int8` and `peak_float32`, by "int8" and "float32".
        multiply_adds: how many multiply-adds one task of these does, by "int8" and "float32".
    """

    vector_bytes: int
    buffers: dict[str, tuple[tuple[int, str], ...]]
    multiply_adds: dict[str, int]


@dataclass(frozen=True)
class Limits:
    """The limits of a machine, for the instruction set of a library and the number of threads of a run.

    Attributes:
        int8, float32: multiply-adds each second, with operands in registers.
        copies: (bytes read and written, bytes each second) of copies, by increasing size.
    """

    int8: float
    float32: float
    copies: tuple[tuple[int, float], ...]

    def peak(self, in_float: bool) -> float:
        """Return the limit of multiply-adds each second, for float32 or int8."""
        return self.float32 if in_float else self.int8

    def bandwidth(self, moved: int) -> float:
        """Return the bytes each second of a copy that repeatedly reads and writes `moved` bytes in all."""
        sizes, speeds = zip(*self.copies, strict=True)
        return float(np.interp(np.log2(max(moved, 1)), np.log2(sizes), speeds))

    def seconds(self, multiply_adds: int, moved: int, in_float: bool) -> float:
        """Return the shortest possible time of an operator: that of its multiply-adds, or of its bytes if longer."""
        return max(multiply_adds / self.peak(in_float), moved / self.bandwidth(moved))


def measure_limits(runner: LibraryRunner, library: Path) -> Limits:
    """Measure the limits of the machine that a runner uses, in the runner's thread and with as many threads.

    The loops that are measured are built by the compiler, in a process of its own.

    Args:
        runner: a runner of the library.
        library: the library, whose instruction set the loops use.

    Raises:
        BuildError: the loops can't be built: for example, as it isn't known how to link for the library's target.
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
