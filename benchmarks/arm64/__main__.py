"""Instructions that arm64 libraries execute for one inference, by class, kind of layer and kernel.

    python -m benchmarks.arm64 [mobilenet_v1 ...] [--target android-arm64-dotprod ...] [--precision int8 ...]
        [--layers] [--kernel PATTERN] [--peers] [--json FILE]

Builds each network for each target, runs it on the least CPU that the target is for, under QEMU's user-mode emulation,
with one thread, and counts every instruction of one run, after others that warm up. Int8 outputs must be the bytes of
the host's library. Weights of the standard architectures are random: answers mean nothing, and work doesn't depend on
them.

`--layers` shows each kernel, and `--kernel` the instructions of those whose names fit a pattern, with how often each
was executed.

`--peers` counts the peers' arm64 wheels in the same way; of several ways to run a network on one of them, the least
counts.

The arm64 Python is in $PIPELINE_AARCH64_SYSROOT, or made in the cache: about 130 MB are downloaded. Needs qemu-user
(7.2), gcc, libc6-dev and llvm from Debian.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import platformdirs
from elftools.elf.elffile import ELFFile
from rich.console import Console

import pipeline
from benchmarks.arm64.counting import Emulator, Segment, build_plugin
from benchmarks.arm64.instructions import by_class, disassemble, on_stack
from benchmarks.arm64.peers import PEERS, count_peer, machine_root, unpack
from benchmarks.arm64.tables import Result, classes_table, kinds_table, layers_table, millions, peers_table
from benchmarks.networks import NETWORKS
from pipeline.library.metadata import read_metadata
from pipeline.runtime.local import Runner
from tests.runtime.emulation import SYSROOT_VARIABLE
from tests.runtime.sysroot import make_sysroot

DEFAULT_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet18")

CPUS = {
    "android-arm64": "cortex-a53",
    "android-arm64-dotprod": "cortex-a76",
    "android-arm64-i8mm": "max,sve=off,sme=off,pauth-impdef=on",
    "linux-aarch64": "cortex-a53",
}
"""For each target, the least CPU that has what it needs; of QEMU's largest one, without vectors that no phone has."""

FLOAT_TARGET = "android-arm64-dotprod"
"""Float32 doesn't depend on integer instructions."""

SAMPLES = 4
"""For calibration: ranges don't change what is executed."""

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
    """

    kernel: str
    kind: str
    calls: int
    multiply_adds: int
    instructions: dict[str, int]
    stack: int

    @property
    def total(self) -> int:
        """All instructions."""
        return sum(self.instructions.values())


def kind_of(kernel: str) -> str:
    """Return the kind of layer that a kernel is for, by its name; see `pipeline.kernels.naming`."""
    if kernel.startswith("conv2d"):
        if "depthwise" in kernel:
            return "depthwise"
        shape = re.search(r"_(\d+)x(\d+)(?:s\d+)?_(\d+)x\d+", kernel)
        if shape is None:
            return "convolution"
        if int(shape[3]) <= 4:
            return "first convolution"
        return "1x1 convolution" if shape[1] == shape[2] == "1" else f"{shape[1]}x{shape[2]} convolution"
    if kernel.startswith(("dense", "matmul")):
        return kernel.partition("_")[0]
    return "other kernels"


def function_addresses(library: Path) -> dict[str, int]:
    """Return the addresses of a library's kernels, from where it is loaded, by name."""
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym").iter_symbols()
        return {
            symbol.name.removeprefix(_WRAPPER): symbol["st_value"]
            for symbol in symbols
            if symbol.name.startswith(_WRAPPER) and symbol["st_info"]["type"] == "STT_FUNC"
        }


def summarize(library: Path, segments: Sequence[Segment], loaded: dict[str, Any], texts: dict[int, str]) -> list[Layer]:
    """Return what each kernel executed, and what was outside: runtime, interpreter, copies of inputs and outputs."""
    names = {address: name for name, address in loaded["kernels"].items()}
    counts: dict[str, Counter[int]] = {OUTSIDE: Counter()}
    calls: Counter[str] = Counter()
    for segment in segments:
        name = names.get(segment.function, OUTSIDE)
        inside = segment.instructions(loaded["begin"], loaded["end"])
        counts.setdefault(name, Counter()).update(inside)
        counts[OUTSIDE].update(segment.instructions() - inside)
        calls[name] += 1
    products: Counter[str] = Counter()
    for operator in read_metadata(library).operators:
        products[operator.kernel] += operator.multiply_adds
    return [
        Layer(
            name,
            name if name == OUTSIDE else kind_of(name),
            calls[name] if name != OUTSIDE else 1,
            products[name],
            by_class(count, texts),
            sum(n for word, n in count.items() if on_stack(texts[word])),
        )
        for name, count in counts.items()
    ]


def listing(segments: Sequence[Segment], loaded: dict[str, Any], texts: dict[int, str], kernel: str) -> Iterator[str]:
    """Yield the instructions of a kernel that were executed, by address, each with how often."""
    runs: Counter[tuple[int, int]] = Counter()
    for segment in segments:
        if segment.function == loaded["kernels"][kernel]:
            for block, times in segment.runs.items():
                if loaded["begin"] <= block.address < loaded["end"]:
                    for i, word in enumerate(block.instructions):
                        runs[block.address + 4 * i, word] += times
    previous = None
    for (address, word), times in sorted(runs.items()):
        if previous is not None and address != previous + 4:
            yield "..."
        yield f"{address - loaded['begin']:8x} {times:10} {texts[word]}"
        previous = address


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


@dataclass(frozen=True)
class Bench:
    """What all measurements share.

    Attributes:
        emulator: counts.
        folder: for models and libraries.
        cache: for what is downloaded.
    """

    emulator: Emulator
    folder: Path
    cache: Path


def count_library(
    emulator: Emulator, library: Path, host: Path, feeds: dict[str, np.ndarray], cpu: str, pattern: str | None
) -> Run:
    """Run a library under emulation, and the host's beside it."""
    folder = library.parent
    inputs, outputs, kernels = (folder / name for name in ("inputs.npz", "outputs.npz", "kernels.json"))
    np.savez(inputs, **feeds)
    kernels.write_text(json.dumps(function_addresses(library)), encoding="utf-8")
    segments = emulator.count(cpu, "benchmarks.arm64.run_library", *map(str, (library, inputs, outputs, kernels)))
    loaded = json.loads(kernels.read_bytes())
    texts = disassemble(word for segment in segments for block in segment.runs for word in block.instructions)
    expected = Runner(host, num_threads=1).run(feeds)
    with np.load(outputs) as archive:
        difference = max(_difference(archive[name], value) for name, value in expected.items())
    layers = summarize(library, segments, loaded, texts)
    shown = [layer.kernel for layer in layers if pattern and fnmatch.fnmatch(layer.kernel, f"*{pattern}*")]
    listings = {name: list(listing(segments, loaded, texts, name)) for name in shown}
    return Run(layers, difference, listings)


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    if actual.tobytes() == expected.tobytes():
        return 0.0
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def build(name: str, precision: str, targets: Sequence[str], folder: Path) -> dict[str, Path]:
    """Build a network for targets and for this machine; return the libraries by target."""
    network = NETWORKS[name]
    program = pipeline.load(network.write(folder / f"{name}.onnx"))
    quantized = pipeline.quantize(program, network.samples(SAMPLES)) if precision == "int8" else None
    libraries = {}
    for target in dict.fromkeys((*targets, "host")):
        path = folder / f"{name}.{precision}.{target}.so"
        if quantized is None:
            pipeline.compile_program(program, pipeline.load_target(target), path)
        else:
            quantized.build(target, path)
        libraries[target] = path
    return libraries


def measure_peers(
    bench: Bench, network: str, precision: str, targets: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the best variant of each peer, by target and peer's name."""
    results: dict[str, dict[str, dict[str, Any]]] = {target: {} for target in targets}
    samples = NETWORKS[network].samples(SAMPLES)
    for peer in PEERS:
        emulator = replace(bench.emulator, packages=(unpack(peer, bench.emulator.sysroot, bench.cache),))
        for variant in (v for v in peer.variants if v.precision == precision):
            model = variant.make(bench.folder / f"{network}.onnx", samples, bench.folder)
            for target in targets:
                root = machine_root(emulator.sysroot, CPUS[target], bench.folder / target)
                counts = count_peer(peer, replace(emulator, root=root), CPUS[target], model, samples[0])
                total, best = sum(counts.values()), results[target].get(peer.name)
                click.echo(f"{network} {precision} {target}: {peer.name} {variant.name} {millions(total)} M", err=True)
                if best is None or total < sum(best["instructions"].values()):
                    results[target][peer.name] = {"variant": variant.name, "instructions": counts}
    return results


def measure(bench: Bench, network: str, precision: str, targets: Sequence[str], pattern: str | None) -> Iterator[Run]:
    """Count a network's libraries for some targets."""
    libraries = build(network, precision, targets, bench.folder)
    feeds = {Runner(libraries["host"]).inputs[0].name: NETWORKS[network].samples(1)[0]}
    for target in targets:
        yield count_library(bench.emulator, libraries[target], libraries["host"], feeds, CPUS[target], pattern)


def find_sysroot(cache: Path) -> Path:
    """Return the folder with the arm64 Python; make it if there is none."""
    if SYSROOT_VARIABLE in os.environ:
        return Path(os.environ[SYSROOT_VARIABLE])
    folder = cache / "sysroot"
    if not folder.exists():
        click.echo(f"making {folder}", err=True)
        make_sysroot(folder)
    return folder


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--target", "targets", type=click.Choice(list(CPUS)), multiple=True, default=tuple(CPUS)[:3])
@click.option(
    "--precision", "precisions", type=click.Choice(["int8", "float32"]), multiple=True, default=("int8", "float32")
)
@click.option("--layers", "show_layers", is_flag=True, help="Show each kernel.")
@click.option("--kernel", "pattern", help="Show the instructions of kernels whose names hold this pattern.")
@click.option("--peers", is_flag=True, help="Count the peers' arm64 wheels, too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(
    names: tuple[str, ...],
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    show_layers: bool,
    pattern: str | None,
    peers: bool,
    json_path: Path | None,
) -> None:
    """Count the instructions of the networks NAMES; float32 for one target alone, as others don't change it."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    qemu = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
    machine = {"qemu": qemu.split()[2], "apache-tvm": version("apache-tvm")}
    cache = platformdirs.user_cache_path("onnx-int8-pipeline") / "arm64"
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Emulator(find_sysroot(cache), build_plugin(Path(folder))), Path(folder), cache)
        for name, precision in itertools.product(names or DEFAULT_NETWORKS, precisions):
            chosen = targets if precision == "int8" else (FLOAT_TARGET,)
            runs = measure(bench, name, precision, chosen, pattern)
            for target, run in zip(chosen, runs, strict=True):
                result = {
                    **{"network": name, "precision": precision, "target": target, "cpu": CPUS[target], "peers": {}},
                    **{"instructions": sum(layer.total for layer in run.layers), "difference": run.difference},
                    "layers": [asdict(layer) for layer in run.layers],
                }
                results.append(result)
                click.echo(f"{name} {precision} {target}: {millions(result['instructions'])} M", err=True)
                if show_layers:
                    console.print(layers_table(result))
                for kernel, lines in run.listings.items():
                    click.echo("\n".join([f"\n{kernel}, {target}: address, times, instruction", *lines]))
            if peers:
                of_peers = measure_peers(bench, name, precision, chosen)
                for result, target in zip(results[-len(chosen) :], chosen, strict=True):
                    result["peers"] = of_peers[target]
    console.print(classes_table(results), kinds_table(results), peers_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
