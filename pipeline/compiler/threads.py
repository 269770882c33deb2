"""The threads on which TVM runs a program's kernels in this process."""

from __future__ import annotations

import os
import threading

import tvm

from pipeline.cpu import usable_cores

_THREADS_SHARE_CORES = -3
"""TVM's number for threads that may each run on any of some CPUs."""

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
"""What a user may say how many threads there should be with."""

_configured = threading.local()


def use_all_cores() -> None:
    """Make TVM run kernels that the calling thread starts on as many threads as the process may use physical cores.

    Unless the environment says how many threads there should be, TVM itself takes half of an x86 machine's CPUs, as
    each core may have two. Results are the same with any number of threads.
    """
    allowed = os.sched_getaffinity(0)
    if getattr(_configured, "cpus", None) == allowed or any(name in os.environ for name in _VARIABLES):
        return
    # The calling thread may run where it could before.
    configure = tvm.get_global_func("runtime.config_threadpool")
    configure(_THREADS_SHARE_CORES, len(usable_cores()), [str(cpu) for cpu in sorted(allowed)])
    _configured.cpus = allowed
