"""Loads a library, and provides a thread that makes all calls into it."""

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
"""TVM's number for the CPU as a device."""

_POOLED_ALLOCATOR = 2
_THREADS_SHARE_CORES = -3

_IDLE: dict[tuple[int, ...], queue.SimpleQueue[Worker]] = {}
"""Threads that no library uses at present, by the CPUs that they and TVM's threads are bound to.

They are kept for the next library. For each thread that calls it, TVM starts threads of its own, which go on for
seconds after the calling thread has ended: a process that opens and drops many runners would have thousands of them.
"""


class LoadedLibrary:
    """A loaded library, and the thread that runs it.

    Args:
        executable: the library as a module of TVM.
        cpus: numbers of the CPUs that the thread, and the threads that TVM starts for it, may use.

    Attributes:
        executable, cpus: as given.
        worker: the thread, in which all calls have to be made.
        main: the library's function `main`.

    Raises:
        RuntimeCallError: the library has no function `main`, or TVM can't run it.
    """

    def __init__(self, executable: ffi.Module, cpus: tuple[int, ...]) -> None:
        self.executable, self.cpus = executable, cpus
        self._idle = _IDLE.setdefault(cpus, queue.SimpleQueue())
        self.worker = _take_worker(self._idle, cpus)
        self.main: ffi.Function = self.worker.call(lambda: new_virtual_machine(executable)["main"])

    def seconds(self, arguments: Sequence[ffi.Tensor]) -> float:
        """Run the library once and return how many seconds that takes. To be called in the worker's thread."""
        start = time.perf_counter()
        self.main(*arguments)
        return time.perf_counter() - start

    @classmethod
    def open(cls, path: Path, cpus: tuple[int, ...]) -> LoadedLibrary:
        """Load a library.

        Raises:
            ArtifactError: the library can't be loaded.
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
    """Return a path of a file that differs from those of all files that had the same name before.

    If a library is built again while the old one is in use, the system's loader would return the old one for the same
    path. So the path contains the file's inode number in binary: "./" for a 1 and "/" for a 0, which lead nowhere else.
    """
    resolved = path.resolve(strict=True)
    steps = "".join("./" if bit == "1" else "/" for bit in f"{resolved.stat().st_ino:b}")
    return f"{resolved.parent}/{steps}{resolved.name}"


def _take_worker(idle: queue.SimpleQueue[Worker], cpus: tuple[int, ...]) -> Worker:
    """Return an idle thread whose calls of TVM use the given CPUs, or else a new one."""
    allowed = os.sched_getaffinity(0)
    worker = None
    with contextlib.suppress(queue.Empty):
        # In a forked process, the list still contains the parent's threads, which don't exist here.
        while worker is None or not worker.is_in_this_process:
            worker = idle.get_nowait()
    if worker is None or not worker.is_in_this_process:
        worker = Worker("runner")
        configure = ffi.runtime().function("runtime.config_threadpool")
        worker.call(lambda: configure(_THREADS_SHARE_CORES, len(cpus), [str(cpu) for cpu in cpus]))
    if len(cpus) == 1:
        # TVM has bound the thread to one CPU. A single thread needs none of its own, and all runners would share one.
        worker.call(lambda: os.sched_setaffinity(0, allowed))
    return worker


def new_virtual_machine(executable: Any) -> Any:
    """Return a new virtual machine for an executable; both are modules of `pipeline.runtime.ffi`, or of `tvm_ffi`."""
    machine = executable["vm_load_executable"]()
    machine["vm_initialization"](CPU, 0, _POOLED_ALLOCATOR)
    return machine
