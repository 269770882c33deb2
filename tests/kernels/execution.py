"""Compiles kernels together, as one module, and calls each: in this process, or by an emulated arm64 CPU."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from pipeline.compiler.kernel_passes import compile_functions
from tests.runtime.emulation import EVERYTHING, SYSROOT_VARIABLE, Aarch64Python

Array = npt.NDArray[Any]

LINK = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-shared", "-nostdlib")

EMULATED_CPU = "cortex-a53"
"""Has none of arm64's optional instructions for integers. Code that may use some runs on a CPU with all."""

PATIENCE = 300
"""Seconds until the emulated machine is taken to hang."""


@dataclass(frozen=True)
class Call:
    """A kernel's function, and its arguments; the result takes the place of the last one.

    Raises:
        AssertionError: the arguments aren't the function's. The function itself doesn't check them, see `build`.
    """

    func: tvm.tirx.PrimFunc
    arguments: tuple[Array, ...]

    def __post_init__(self) -> None:
        wanted = [(tuple(int(d) for d in p.shape), str(p.dtype)) for p in self.func.params]
        assert [(a.shape, str(a.dtype)) for a in self.arguments] == wanted


Execute = Callable[[Sequence[Call], tvm.target.Target], list[Array]]
"""Compiles and makes some calls, and returns their results."""


def build(functions: Sequence[tvm.tirx.PrimFunc], target: tvm.target.Target) -> tvm.runtime.Module:
    """Return one module of functions by the names kernel0, kernel1, ...; they don't check their arguments."""
    return compile_functions({f"kernel{i}": f for i, f in enumerate(functions)}, target)


def execute_here(calls: Sequence[Call], target: tvm.target.Target) -> list[Array]:
    """Compile and make some calls in this process, and return their results."""
    module, results = build([call.func for call in calls], target), []
    for i, call in enumerate(calls):
        arguments = [tvm.runtime.tensor(a) for a in call.arguments]
        module[f"kernel{i}"](*arguments)
        results.append(arguments[-1].numpy())
    return results


def execute_emulated(calls: Sequence[Call], target: tvm.target.Target) -> list[Array]:
    """Compile and make some calls on an emulated arm64 CPU, and return their results."""
    return _machine(EMULATED_CPU if set(target.attrs["mattr"]) == {"+neon"} else EVERYTHING).execute(calls, target)


@functools.cache
def _machine(cpu: str) -> _EmulatedMachine:
    return _EmulatedMachine(cpu)


class _EmulatedMachine:
    """One process of `tests.kernels.run_kernels` for all tests, as it takes seconds to start."""

    def __init__(self, cpu: str) -> None:
        self._cpu = cpu
        self._folder = tempfile.TemporaryDirectory(prefix="kernels-")
        self._scratch = Path(self._folder.name)
        self._names = itertools.count()
        self._process: subprocess.Popen[str] | None = None

    def execute(self, calls: Sequence[Call], target: tvm.target.Target) -> list[Array]:
        name = self._scratch / str(next(self._names))
        library, inputs, outputs = (name.with_suffix(s) for s in (".so", ".in.npz", ".out.npz"))
        _link(build([call.func for call in calls], target), library)
        np.savez(inputs, **{f"{i}/{p}": a for i, call in enumerate(calls) for p, a in enumerate(call.arguments)})
        self._request(f"{library}\t{inputs}\t{outputs}")
        with np.load(outputs) as archive:
            results = [archive[str(i)] for i in range(len(calls))]
        for path in (library, inputs, outputs):
            path.unlink()
        return results

    def _request(self, line: str) -> None:
        """Have a line carried out; a machine that fails is replaced for the next one."""
        process = self._process or self._start()
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        timer.cancel()
        if answer != "done\n":
            process.kill()
            code, log = process.wait(), (self._scratch / "log").read_text(encoding="utf-8")
            raise AssertionError(f"The emulated machine ended with {code}:\n{log}")
        self._process = process

    def _start(self) -> subprocess.Popen[str]:
        python = Aarch64Python(Path(os.environ[SYSROOT_VARIABLE]).resolve(), self._scratch)
        with (self._scratch / "log").open("w") as log:
            # It ends when its standard input does, which is at the latest when this process ends.
            return subprocess.Popen(
                [python.executable(self._cpu), "-m", "tests.kernels.run_kernels"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=python.environment(),
                text=True,
            )


def _link(module: tvm.runtime.Module, library: Path) -> None:
    objects = library.with_suffix(".o")
    module.write_to_file(str(objects))
    command = [*LINK, str(objects), "-rtlib=compiler-rt", "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    objects.unlink()
