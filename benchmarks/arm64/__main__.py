"""Instructions that arm64 libraries execute for one inference, by class, kind of layer and kernel.

    python -m benchmarks.arm64 [mobilenet_v1 ...] [--target android-arm64-dotprod ...] [--precision int8 ...]
        [--layers] [--kernel PATTERN] [--json FILE]

Builds each network for each target, runs it on the least CPU that the target is for, under QEMU's user-mode emulation,
with one thread, and counts every instruction of one run, after others that warm up. Int8 outputs must be the bytes of
the host's library. Weights of the standard architectures are random: answers mean nothing, and work doesn't depend on
them.

`--layers` shows each kernel, and `--kernel` the instructions of those whose names fit a pattern, with how often each
was executed.

The arm64 Python is in $PIPELINE_AARCH64_SYSROOT, or made in the cache: about 130 MB are downloaded. Needs qemu-user
(7.2), gcc, libc6-dev and llvm from Debian.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import platformdirs
from elftools.elf.elffile import ELFFile
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.arm64.counting import Emulator, Segment, build_plugin
from benchmarks.arm64.instructions import CLASSES, by_class, disassemble, on_stack
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
        same_bytes: whether the outputs are those of the host's library.
        listings: instructions of the kernels that were asked for, by name.
    """

    layers: list[Layer]
    same_bytes: bool
    listings: dict[str, list[str]]


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
        same = all(archive[name].tobytes() == value.tobytes() for name, value in expected.items())
    layers = summarize(library, segments, loaded, texts)
    shown = [layer.kernel for layer in layers if pattern and fnmatch.fnmatch(layer.kernel, f"*{pattern}*")]
    listings = {name: list(listing(segments, loaded, texts, name)) for name in shown}
    return Run(layers, same, listings)


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


def find_sysroot() -> Path:
    """Return the folder with the arm64 Python; make it if there is none."""
    if SYSROOT_VARIABLE in os.environ:
        return Path(os.environ[SYSROOT_VARIABLE])
    folder = platformdirs.user_cache_path("onnx-int8-pipeline") / "aarch64"
    if not folder.exists():
        click.echo(f"making {folder}", err=True)
        make_sysroot(folder)
    return folder


def millions(count: int) -> str:
    """Return a number of instructions for people."""
    return f"{count / 1e6:.1f}" if count >= 1e5 else f"{count / 1e6:.3f}"


def classes_table(results: list[dict[str, Any]]) -> Table:
    """Return the instructions of each network by class."""
    table = Table("network", "precision", "target", "bytes", "all", *CLASSES, title="million instructions, by class")
    for result in results:
        table.add_row(
            *(result[key] for key in ("network", "precision", "target")),
            "same" if result["same_bytes"] else "differ",
            millions(result["instructions"]),
            *(millions(sum(layer["instructions"][name] for layer in result["layers"])) for name in CLASSES),
        )
    return table


def kinds_table(results: list[dict[str, Any]]) -> Table:
    """Return the instructions of each network by kind of layer."""
    kinds = list(dict.fromkeys(layer["kind"] for result in results for layer in result["layers"]))
    table = Table("network", "precision", "target", *kinds, title="million instructions, by kind of layer")
    for result in results:
        sums: Counter[str] = Counter()
        for layer in result["layers"]:
            sums[layer["kind"]] += sum(layer["instructions"].values())
        table.add_row(
            *(result[key] for key in ("network", "precision", "target")), *(millions(sums[kind]) for kind in kinds)
        )
    return table


def layers_table(result: dict[str, Any]) -> Table:
    """Return the kernels of one network, those with the most instructions first."""
    title = f"{result['network']}, {result['precision']}, {result['target']}: million instructions, by kernel"
    table = Table(
        "kernel", "calls", "products", "all", "for each product", *CLASSES, "of these on the stack", title=title
    )
    for layer in sorted(result["layers"], key=lambda layer: -sum(layer["instructions"].values())):
        total = sum(layer["instructions"].values())
        table.add_row(
            layer["kernel"],
            str(layer["calls"]),
            millions(layer["multiply_adds"]),
            millions(total),
            f"{total / layer['multiply_adds']:.3f}" if layer["multiply_adds"] else "",
            *(millions(layer["instructions"][name]) for name in CLASSES),
            millions(layer["stack"]),
        )
    return table


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--target", "targets", type=click.Choice(list(CPUS)), multiple=True, default=tuple(CPUS)[:3])
@click.option(
    "--precision", "precisions", type=click.Choice(["int8", "float32"]), multiple=True, default=("int8", "float32")
)
@click.option("--layers", "show_layers", is_flag=True, help="Show each kernel.")
@click.option("--kernel", "pattern", help="Show the instructions of kernels whose names hold this pattern.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(
    names: tuple[str, ...],
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    show_layers: bool,
    pattern: str | None,
    json_path: Path | None,
) -> None:
    """Count the instructions of the networks NAMES; float32 for one target alone, as others don't change it."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    qemu = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout
    machine = {"qemu": qemu.split()[2], "apache-tvm": version("apache-tvm")}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        emulator = Emulator(find_sysroot(), build_plugin(folder))
        for name in names or DEFAULT_NETWORKS:
            feeds = {"x": NETWORKS[name].samples(1)[0]}
            for precision in precisions:
                chosen = targets if precision == "int8" else (FLOAT_TARGET,)
                libraries = build(name, precision, chosen, folder)
                feeds = {Runner(libraries["host"]).inputs[0].name: feeds.popitem()[1]}
                for target in chosen:
                    run = count_library(emulator, libraries[target], libraries["host"], feeds, CPUS[target], pattern)
                    results.append(
                        {
                            **{"network": name, "precision": precision, "target": target, "cpu": CPUS[target]},
                            "same_bytes": run.same_bytes,
                            "instructions": sum(layer.total for layer in run.layers),
                            "layers": [asdict(layer) for layer in run.layers],
                        }
                    )
                    click.echo(f"{name} {precision} {target}: {millions(results[-1]['instructions'])} M", err=True)
                    if show_layers:
                        console.print(layers_table(results[-1]))
                    for kernel, lines in run.listings.items():
                        click.echo("\n".join([f"\n{kernel}, {target}: address, times, instruction", *lines]))
    console.print(classes_table(results), kinds_table(results))
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
