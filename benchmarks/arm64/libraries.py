"""Counts what our libraries execute, kernel by kernel."""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from benchmarks.arm64.cores import Costs, estimate
from benchmarks.arm64.counting import Block, Emulator, Segment, executed
from benchmarks.arm64.instructions import by_class, disassemble, on_stack
from pipeline.library.metadata import read_metadata
from pipeline.runtime.local import Runner

Array = npt.NDArray[Any]

OUTSIDE = "outside of kernels"
_WRAPPER = "__tvm_ffi_"


@dataclass(frozen=True)
class Layer:
    """What one kernel executed, in all of its calls.

    Attributes:
        kernel: its name.
        kind: of layer.
        calls: in one inference.
        multiply_adds: in all calls, by the layers' definition.
        instructions: by class.
        stack: loads and stores of vectors from and to the stack.
        costs: on the cores that were asked for, by core.
    """

    kernel: str
    kind: str
    calls: int
    multiply_adds: int
    instructions: dict[str, int]
    stack: int
    costs: dict[str, Costs]

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self.instructions.values())


@dataclass(frozen=True)
class Show:
    """What is asked for beside the counts.

    Attributes:
        kernel: a pattern of kernels' names, whose instructions are listed.
        cores: those in `cores.CORES` for which costs are estimated.
    """

    kernel: str | None = None
    cores: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One library, counted.

    Attributes:
        layers: what each kernel executed.
        difference: of the outputs from those of the host's library, at most, by the largest output; 0.0 if the bytes
            are the same.
        listings: instructions of the kernels that were asked for, by name.
    """

    layers: list[Layer]
    difference: float
    listings: dict[str, list[str]]


def count_library(emulator: Emulator, library: Path, host: Path, feeds: dict[str, Array], cpu: str, show: Show) -> Run:
    """Run a library under emulation, and the host's beside it."""
    folder = library.parent
    inputs, outputs, kernels = (folder / name for name in ("inputs.npz", "outputs.npz", "kernels.json"))
    np.savez(inputs, **feeds)
    kernels.write_text(json.dumps(_function_addresses(library)), encoding="utf-8")
    segments = emulator.count(cpu, "benchmarks.arm64.run_library", *map(str, (library, inputs, outputs, kernels)))
    observed = _Observed.of(segments, json.loads(kernels.read_bytes()))
    expected = Runner(host, num_threads=1).run(feeds)
    with np.load(outputs) as archive:
        difference = max(_difference(archive[name], value) for name, value in expected.items())
    layers = list(observed.layers(library, show.cores))
    shown = [layer.kernel for layer in layers if show.kernel and fnmatch.fnmatch(layer.kernel, f"*{show.kernel}*")]
    return Run(layers, difference, {name: list(observed.listing(name)) for name in shown})


@dataclass(frozen=True)
class _Observed:
    """What was executed.

    Attributes:
        begin: where the library is in memory.
        end: the address behind it.
        texts: of all instructions.
        inside: for each call of each kernel, which of the library's blocks ran how often.
        outside: instructions of the rest: runtime, interpreter, copies of inputs and outputs.
    """

    begin: int
    end: int
    texts: Mapping[int, str]
    inside: dict[str, list[Mapping[Block, int]]] = field(default_factory=dict)
    outside: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, segments: Sequence[Segment], loaded: dict[str, Any]) -> _Observed:
        """Sort what ran between marks; `loaded` is what `run_library` wrote."""
        texts = disassemble(word for segment in segments for block in segment.runs for word in block.instructions)
        observed = cls(loaded["begin"], loaded["end"], texts)
        names = {address: name for name, address in loaded["kernels"].items()}
        for segment in segments:
            within = {block: times for block, times in segment.runs.items() if observed._holds(block)}
            without = {block: times for block, times in segment.runs.items() if not observed._holds(block)}
            observed.outside.update(executed([without]))
            if segment.function in names:
                observed.inside.setdefault(names[segment.function], []).append(within)
            else:
                observed.outside.update(executed([within]))
        return observed

    def _holds(self, block: Block) -> bool:
        return self.begin <= block.address < self.end

    def layers(self, library: Path, cores: Sequence[str]) -> Iterator[Layer]:
        """Yield what each kernel executed, and what was outside of them."""
        products: Counter[str] = Counter()
        for operator in read_metadata(library).operators:
            products[operator.kernel] += operator.multiply_adds
        costs = {core: estimate(self.inside, self.texts, core) for core in cores}
        for name, calls in self.inside.items():
            own = {core: costs[core][name] for core in cores}
            counts = executed(calls)
            yield Layer(name, _kind_of(name), len(calls), products[name], *self._sorted(counts), own)
        yield Layer(OUTSIDE, OUTSIDE, 1, 0, *self._sorted(self.outside), {})

    def _sorted(self, counts: Mapping[int, int]) -> tuple[dict[str, int], int]:
        stack = sum(n for word, n in counts.items() if on_stack(self.texts[word]))
        return by_class(counts, self.texts), stack

    def listing(self, kernel: str) -> Iterator[str]:
        """Yield the instructions of a kernel that were executed, by address in the library, each with how often."""
        runs: Counter[tuple[int, int]] = Counter()
        for call in self.inside[kernel]:
            for block, times in call.items():
                for i, word in enumerate(block.instructions):
                    runs[block.address + 4 * i, word] += times
        previous = None
        for (address, word), times in sorted(runs.items()):
            if previous is not None and address != previous + 4:
                yield "..."
            yield f"{address - self.begin:8x} {times:10} {self.texts[word]}"
            previous = address


def _kind_of(kernel: str) -> str:
    """Return the kind of layer that a kernel is for, by its name; see `pipeline.kernels.naming`."""
    if kernel.startswith("conv2d"):
        if "depthwise" in kernel:
            return "depthwise"
        shape = re.search(r"_(\d+)x(\d+)(?:s\d+(?:x\d+)?)?_(\d+)x\d+", kernel)
        if shape is None:
            return "convolution"
        # Channels of an image, or the values of some of its pixels that are neighbours in a row.
        if int(shape[3]) % 8 != 0:
            return "first convolution"
        return f"{shape[1]}x{shape[2]} convolution"
    if kernel.startswith(("dense", "matmul")):
        return kernel.partition("_")[0]
    return "other kernels"


def _function_addresses(library: Path) -> dict[str, int]:
    """Return the addresses of a library's kernels, from where it is loaded, by name."""
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {
            symbol.name.removeprefix(_WRAPPER): symbol["st_value"]
            for symbol in symbols
            if symbol.name.startswith(_WRAPPER) and symbol["st_info"]["type"] == "STT_FUNC"
        }


def _difference(actual: Array, expected: Array) -> float:
    if actual.tobytes() == expected.tobytes():
        return 0.0
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
