"""Programs run on all cores that the process may use, and the process may use as many as before."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import tvm

from pipeline.compiler.threads import use_all_cores
from pipeline.cpu import usable_cores


def threads_and_cpus() -> tuple[int, set[int]]:
    use_all_cores()
    return int(tvm.get_global_func("runtime.NumThreads")()), os.sched_getaffinity(0)


def in_new_thread() -> tuple[int, set[int]]:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(threads_and_cpus).result()


def test_there_is_a_thread_for_each_core_and_the_caller_may_still_use_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert in_new_thread() == (len(usable_cores()), os.sched_getaffinity(0))
