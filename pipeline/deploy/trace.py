"""Times a library's kernels one by one: they are captured from a run, and then called directly.

Timing around callbacks in the middle of a run would measure the callbacks, too: they cost more than small kernels do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_BUILTIN_PREFIX = "vm.builtin."
"""What the names of the virtual machine's own functions begin with: allocation, checks, views."""

_EMPTY_FUNCTION = "vm.builtin.null_value"
_EMPTY_CALLS = 1000


@dataclass(frozen=True)
class Call:
    """A kernel with the tensors that it was called with.

    Attributes:
        kernel: the kernel's name.
        function: the kernel.
        tensors: inputs, constants and output.
    """

    kernel: str
    function: Any
    tensors: tuple[Any, ...]


@dataclass(frozen=True)
class KernelTime:
    """How long one call of a kernel took, in seconds, each time that it was measured."""

    kernel: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """How long runs took, and the kernels in them.

    Attributes:
        runs: seconds of whole runs.
        kernels: every kernel call, in order; the i-th times of all of them are one pass over the program.
    """

    runs: tuple[float, ...]
    kernels: tuple[KernelTime, ...]

    @property
    def passes(self) -> tuple[float, ...]:
        """Seconds of each pass over the kernels."""
        return tuple(sum(times) for times in zip(*(k.seconds for k in self.kernels), strict=True))

    @property
    def overhead(self) -> float:
        """Share of a run that isn't spent in kernels: the runtime's dispatch, allocation, and checks of inputs.

        The median over all runs, each compared with the pass that followed it: neighbours in time meet the same load.
        Below zero where the load changes by more than the overhead.
        """
        return statistics.median(1 - kernels / run for kernels, run in zip(self.passes, self.runs, strict=True))


def captured_calls(machine: Any, arguments: Sequence[Any], ffi: Any) -> tuple[Call, ...]:
    """Return the kernel calls of one run, in order. Their tensors stay as the run left them.

    Args:
        machine: a virtual machine that is used for nothing else.
        arguments: of its function `main`.
        ffi: the module `tvm_ffi`.
    """
    calls: list[Call] = []

    def record(function: Any, name: str, before: bool, _result: Any, *tensors: Any) -> int:
        if before and not name.startswith(_BUILTIN_PREFIX):
            calls.append(Call(name, function, tensors))
        return 0

    machine["set_instrument"](ffi.convert(record))
    machine["main"](*arguments)
    return tuple(calls)


def time_calls(run: Callable[[], Any], calls: Sequence[Call], ffi: Any, repeats: int) -> Trace:
    """Time whole runs and passes over the kernels in turn, so that a change of the machine's speed meets both.

    Args:
        run: makes one run.
        calls: its kernel calls.
        ffi: the module `tvm_ffi`.
        repeats: how many runs and passes are timed. One of each comes before, as they use different memory.
    """
    empty = _empty_call(ffi.get_global_func(_EMPTY_FUNCTION))
    runs: list[float] = []
    passes: list[list[float]] = []
    for _ in range(repeats):
        run()
        runs.append(_seconds(run))
        for call in calls:
            call.function(*call.tensors)
        passes.append([_seconds(call.function, *call.tensors) - empty for call in calls])
    times = zip(*passes, strict=True)
    return Trace(tuple(runs), tuple(KernelTime(c.kernel, seconds) for c, seconds in zip(calls, times, strict=True)))


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter_ns()
    function(*arguments)
    return (time.perf_counter_ns() - start) * 1e-9


def _empty_call(function: Callable[[], Any]) -> float:
    """Return the seconds that a call takes which does nothing; two readings of the clock are among them."""
    return min(_seconds(function) for _ in range(_EMPTY_CALLS))
