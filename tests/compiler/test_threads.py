"""Programs run on all cores that the process may use, and the process may use as many as before."""

from __future__ import annotations

import os

import pytest
import tvm

from pipeline.compiler.threads import most_sharers, sharing_threads, use_all_cores
from pipeline.cpu import usable_cores


def threads_and_cpus() -> tuple[int, set[int]]:
    use_all_cores()
    return int(tvm.get_global_func("runtime.NumThreads")()), os.sched_getaffinity(0)


def among_sharers(sharers: int = 1) -> tuple[int, set[int]]:
    return sharing_threads(sharers).submit(threads_and_cpus).result()


@pytest.fixture(autouse=True)
def _no_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_there_is_a_thread_for_each_core_and_the_caller_may_still_use_all() -> None:
    assert among_sharers() == (len(usable_cores()), os.sched_getaffinity(0))


def test_threads_that_share_the_cores_have_a_part_of_them_each() -> None:
    cores = len(usable_cores())
    assert [among_sharers(sharers)[0] for sharers in (2, cores, 2 * cores)] == [max(1, cores // 2), 1, 1]


def test_whoever_says_how_many_threads_there_are_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_sharers() == len(usable_cores())
    monkeypatch.setenv("TVM_NUM_THREADS", "2")
    assert most_sharers() == 1
