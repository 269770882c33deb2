"""Loads a library into a thread that makes all calls into it."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.runtime import ffi
from pipeline.runtime.worker import Worker

CPU = 1
"""TVM's number for the device."""

_POOLED_ALLOCATOR = 2
_THREADS_SHARE_CORES = -3

_IDLE: dict[tuple[int, ...], queue.SimpleQueue[Worker]] = {}
"""Threads that no library uses, by the CPUs that they and TVM's threads are bound to.

They are kept for the next library: TVM starts threads for each thread that calls it, and these outlive that one for
seconds, so that a process that opens and drops runners would gather thousands.
"""


class LoadedLibrary:
    """A library, ready in a thread.

    Args:
        executable: the library.
        cpus: that the thread, and those that help it, may use.

    Attributes:
        executable, cpus: as given.
        worker: the thread, in which all calls have to be made.
        main: the library's function.

    Raises:
        RuntimeCallError: it has no such function, or can't run.
    """

    def __init__(self, executable: ffi.Module, cpus: tuple[int, ...]) -> None:
        self.executable, self.cpus = executable, cpus
        self._idle = _IDLE.setdefault(cpus, queue.SimpleQueue())
        self.worker = _take_worker(self._idle, cpus)
        self.main: ffi.Function = self.worker.call(lambda: new_virtual_machine(executable)["main"])

    def seconds(self, arguments: Sequence[ffi.Tensor]) -> float:
        """Return how long a run takes; to be called in the thread."""
        start = time.perf_counter()
        self.main(*arguments)
        return time.perf_counter() - start

    @classmethod
    def open(cls, path: Path, cpus: tuple[int, ...]) -> LoadedLibrary:
        """Load a library.

        Raises:
            ArtifactError: it can't be loaded.
        """
        try:
            return cls(ffi.runtime().load_module(_unique_path(path)), cpus)
        except (ffi.RuntimeCallError, OSError) as error:
            raise ArtifactError(f"{path} can't be loaded: {error}") from error

    def __del__(self) -> None:
        worker: Worker | None = getattr(self, "worker", None)
        if worker is not None:
            self._idle.put(worker)


def _unique_path(path: Path) -> str:
    """Return a file's path, written as no other file's is that is or was at the same place.

    Where a library is built anew while the former one is in use, the system's loader would give the former one for the
    same path. Steps into the same folder, of which there may be any number, spell the number of the file.
    """
    resolved = path.resolve(strict=True)
    steps = "".join("./" if bit == "1" else "/" for bit in f"{resolved.stat().st_ino:b}")
    return f"{resolved.parent}/{steps}{resolved.name}"


def _take_worker(idle: queue.SimpleQueue[Worker], cpus: tuple[int, ...]) -> Worker:
    """Return a thread whose calls of TVM use the given CPUs: an idle one, or else a new one."""
    allowed = os.sched_getaffinity(0)
    worker = None
    with contextlib.suppress(queue.Empty):
        # In a process that was forked, the parent's threads are still listed.
        while worker is None or not worker.is_in_this_process:
            worker = idle.get_nowait()
    if worker is None or not worker.is_in_this_process:
        worker = Worker("runner")
        configure = ffi.runtime().function("runtime.config_threadpool")
        worker.call(lambda: configure(_THREADS_SHARE_CORES, len(cpus), [str(cpu) for cpu in cpus]))
    if len(cpus) == 1:
        # A single thread needs no core of its own; several runners would all be bound to the same.
        worker.call(lambda: os.sched_setaffinity(0, allowed))
    return worker


def new_virtual_machine(executable: Any) -> Any:
    """Return a virtual machine for an executable; both are modules of `pipeline.runtime.ffi`, or of `tvm_ffi`."""
    machine = executable["vm_load_executable"]()
    machine["vm_initialization"](CPU, 0, _POOLED_ALLOCATOR)
    return machine
