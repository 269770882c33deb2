"""Runs programs under user-mode emulation and counts the instructions that they execute between their marks.

Emulation executes every instruction as the CPU would, so counts hold for any machine, and hardly vary from run to run.
They aren't times: what an instruction costs depends on the core, see `llvm-mca` for that.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from tests.runtime.emulation import REPOSITORY
from tests.runtime.sysroot import python_path

_SOURCE = Path(__file__).with_name("counter.c")
_QEMU = "qemu-aarch64"
_WORD = 8


@dataclass(frozen=True)
class Block:
    """Instructions that follow each other and are translated together."""

    address: int
    instructions: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """What ran between two marks.

    Attributes:
        function: address of the function whose call was the first mark; 0 for a mark of the program itself.
        runs: how often each block ran.
    """

    function: int
    runs: Mapping[Block, int]


@dataclass(frozen=True)
class Emulator:
    """An arm64 Python that counts.

    Attributes:
        sysroot: what `tests.runtime.sysroot` made.
        plugin: the compiled plugin.
        packages: further folders with Python packages.
        root: where programs find the system's files, if not in `sysroot`.
    """

    sysroot: Path
    plugin: Path
    packages: tuple[Path, ...] = ()
    root: Path | None = None

    def count(self, cpu: str, module: str, *arguments: str) -> list[Segment]:
        """Run a module to its end and return what ran between its marks.

        Args:
            cpu: as QEMU calls it.
            module: of Python.
            arguments: of the module.

        Raises:
            click.ClickException: the program failed.
        """
        path = ":".join(str(p) for p in (*self.packages, self.sysroot / "site-packages", REPOSITORY))
        environment = {
            **os.environ,
            **{"PYTHONPATH": path, "TVM_USE_RUNTIME_LIB": "1", "PYDANTIC_DISABLE_PLUGINS": "1", "OMP_NUM_THREADS": "1"},
        }
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts"
            command = [_QEMU, "-L", str(self.root or self.sysroot), "-cpu", cpu, "-plugin", f"{self.plugin},out={out}"]
            command += [str(python_path(self.sysroot)), "-m", module, *arguments]
            result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise click.ClickException(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
            return list(_segments(out.read_bytes()))


def build_plugin(folder: Path) -> Path:
    """Compile the plugin and return its path.

    Raises:
        click.ClickException: a program that is needed isn't installed.
    """
    for tool, package in ((_QEMU, "qemu-user"), ("gcc", "gcc libc6-dev")):
        if shutil.which(tool) is None:
            raise click.ClickException(f"{tool} isn't installed; on Debian: apt-get install {package}")
    plugin = folder / "counter.so"
    subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", str(_SOURCE), "-o", str(plugin)], check=True)
    return plugin


def executed(calls: Iterable[Mapping[Block, int]]) -> Counter[int]:
    """Return how often each instruction was executed, given how often blocks ran."""
    counts: Counter[int] = Counter()
    for runs in calls:
        for block, times in runs.items():
            for word in block.instructions:
                counts[word] += times
    return counts


def _segments(data: bytes) -> Iterator[Segment]:
    blocks: dict[int, Block] = {}
    position = 0

    def words(count: int) -> tuple[int, ...]:
        nonlocal position
        position += count * _WORD
        return struct.unpack_from(f"<{count}Q", data, position - count * _WORD)

    while position < len(data):
        (kind,) = words(1)
        if kind == 0:
            id_, address, count = words(3)
            blocks[id_] = Block(address, words(count))
        else:
            function, count = words(2)
            pairs = words(2 * count)
            runs: Counter[Block] = Counter()
            for id_, times in zip(pairs[::2], pairs[1::2], strict=True):
                runs[blocks[id_]] += times
            yield Segment(function, runs)
