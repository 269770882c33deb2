"""An arm64 Linux Python under user-mode emulation; `tests.runtime.sysroot` makes the folder that it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.runtime.run_library import Array, read_batches
from tests.runtime.sysroot import python_path

SYSROOT_VARIABLE = "PIPELINE_AARCH64_SYSROOT"

REPOSITORY = Path(__file__).resolve().parents[2]

EVERYTHING = "max,pauth-impdef=on"
"""QEMU's name for a CPU with all instructions of arm64, with a faster emulation of pointer authentication."""


def why_missing() -> str | None:
    """Return what this machine lacks for the emulation; None if it can be used."""
    if shutil.which("qemu-aarch64") is None:
        return "qemu-aarch64 isn't installed"
    if not Path(os.environ.get(SYSROOT_VARIABLE, "/nonexistent")).is_dir():
        return f"{SYSROOT_VARIABLE} names no folder; make one with python -m tests.runtime.sysroot DIR"
    return None


@dataclass(frozen=True)
class Aarch64Python:
    """The interpreter, with the repository and the packages that a runner needs on its path.

    Attributes:
        sysroot: what `tests.runtime.sysroot` made.
        scratch: an empty folder.
    """

    sysroot: Path
    scratch: Path

    def executable(self, cpu: str = EVERYTHING) -> Path:
        """Return a script that starts the interpreter on a CPU, called as QEMU does: cortex-a53, cortex-a76, ..."""
        path = self.scratch / f"python-{cpu}"
        if not path.exists():
            path.write_text(
                f'#!/bin/sh\nexec qemu-aarch64 -L {self.sysroot} -cpu {cpu} {python_path(self.sysroot)} "$@"\n'
            )
            path.chmod(0o755)
        return path

    def environment(self) -> dict[str, str]:
        """Return the environment variables to start it with."""
        path = f"{self.sysroot / 'site-packages'}:{REPOSITORY}"
        return {**os.environ, "PYTHONPATH": path, "TVM_USE_RUNTIME_LIB": "1", "PYDANTIC_DISABLE_PLUGINS": "1"}

    def run(self, arguments: Sequence[str], cpu: str = EVERYTHING) -> subprocess.CompletedProcess[str]:
        """Run the interpreter to its end and return what it printed."""
        return subprocess.run(
            [self.executable(cpu), *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def run_library(
        self, library: Path, batches: Sequence[Mapping[str, Array]], cpu: str = EVERYTHING
    ) -> list[dict[str, Array]]:
        """Run a library on several inputs and return the outputs, in a single process, as Python starts slowly."""
        inputs, outputs = self.scratch / "inputs.npz", self.scratch / "outputs.npz"
        np.savez(inputs, **{f"{i}/{name}": value for i, feeds in enumerate(batches) for name, value in feeds.items()})
        outputs.unlink(missing_ok=True)
        result = self.run(["-m", "tests.runtime.run_library", str(library), str(inputs), str(outputs)], cpu)
        assert result.returncode == 0, result.stderr
        return read_batches(outputs)
