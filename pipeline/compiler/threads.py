"""The threads on which TVM runs a program's kernels in this process."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import tvm

from pipeline.cpu import usable_cores

_THREADS_SHARE_CORES = -3
"""TVM's number for threads that may each run on any of some CPUs."""

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
"""What a user may say how many threads there should be with."""

_configured = threading.local()


def use_all_cores() -> None:
    """Make TVM run kernels that the calling thread starts on as many threads as the process may use physical cores.

    If the thread shares the cores with others, see `sharing_threads`, it is as many as its share.

    Unless the environment says how many threads there should be, TVM itself takes half of an x86 machine's CPUs, as
    each core may have two. Results are the same with any number of threads.
    """
    allowed = os.sched_getaffinity(0)
    if getattr(_configured, "cpus", None) == allowed or any(name in os.environ for name in _VARIABLES):
        return
    # The calling thread may run where it could before.
    configure = tvm.get_global_func("runtime.config_threadpool")
    share = max(1, len(usable_cores()) // getattr(_configured, "sharers", 1))
    configure(_THREADS_SHARE_CORES, share, [str(cpu) for cpu in sorted(allowed)])
    _configured.cpus = allowed


@functools.cache
def sharing_threads(sharers: int) -> ThreadPoolExecutor:
    """Return threads, always the same ones, that run kernels at the same time, each on its share of the cores.

    They stay as long as the process runs: TVM starts threads for each thread that runs a kernel, and never ends them.

    Args:
        sharers: how many there are.
    """

    def share() -> None:
        _configured.sharers = sharers

    return ThreadPoolExecutor(sharers, "sharing-cores", initializer=share)


def most_sharers() -> int:
    """Return how many threads can share the cores: 1 if the environment says how many there should be."""
    return 1 if any(name in os.environ for name in _VARIABLES) else len(usable_cores())
