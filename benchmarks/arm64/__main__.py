"""Instructions that arm64 libraries execute for one inference, by class, kind of layer and kernel.

    python -m benchmarks.arm64 [mobilenet_v1 ...] [--target android-arm64-dotprod ...] [--precision int8 ...]
        [--layers] [--kernel PATTERN] [--core cortex-a76 ...] [--peers] [--json FILE]

Builds each network for each target, runs it on the least CPU that the target is for, under QEMU's user-mode emulation,
with one thread, and counts every instruction of one run, after others that warm up. Int8 outputs must be the bytes of
the host's library. Weights of the standard architectures are random: answers mean nothing, and work doesn't depend on
them.

`--layers` shows each kernel, and `--kernel` the instructions of those whose names fit a pattern, with how often each
was executed.

`--core` estimates what kernels cost on a core, by LLVM's model of it, and how near the loop that costs the most comes
to the rate at which the core multiplies.

`--peers` counts the peers' arm64 wheels in the same way; of several ways to run a network on one of them, the least
counts.

The arm64 Python is in $PIPELINE_AARCH64_SYSROOT, or made in the cache: about 130 MB are downloaded. Needs qemu-user
(7.2), gcc, libc6-dev and llvm (better llvm-19) from Debian.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import platformdirs
from rich.console import Console

import pipeline
from benchmarks.arm64.cores import CORES
from benchmarks.arm64.counting import Emulator, build_plugin
from benchmarks.arm64.libraries import Run, Show, count_library
from benchmarks.arm64.peers import PEERS, count_peer, machine_root, unpack
from benchmarks.arm64.tables import Result, classes_table, cores_table, kinds_table, layers_table, millions, peers_table
from benchmarks.networks import NETWORKS
from pipeline.runtime.local import Runner
from tests.runtime.emulation import SYSROOT_VARIABLE
from tests.runtime.sysroot import make_sysroot

DEFAULT_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet18")

ACTIVATION_BITS = {"int8": 8, "int16": 16}
"""For each precision with integers, the bits of activations."""

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


def build(name: str, precision: str, targets: Sequence[str], folder: Path) -> dict[str, Path]:
    """Build a network for targets and for this machine; return the libraries by target."""
    network = NETWORKS[name]
    program = pipeline.load(network.write(folder / f"{name}.onnx"))
    quantized = None
    if precision in ACTIVATION_BITS:
        samples = network.samples(SAMPLES)
        quantized = pipeline.quantize(program, samples, activation_bits=ACTIVATION_BITS[precision])
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


def measure(bench: Bench, network: str, precision: str, targets: Sequence[str], show: Show) -> Iterator[Run]:
    """Count a network's libraries for some targets."""
    libraries = build(network, precision, targets, bench.folder)
    feeds = {Runner(libraries["host"]).inputs[0].name: NETWORKS[network].samples(1)[0]}
    for target in targets:
        yield count_library(bench.emulator, libraries[target], libraries["host"], feeds, CPUS[target], show)


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
    "--precision",
    "precisions",
    type=click.Choice([*ACTIVATION_BITS, "float32"]),
    multiple=True,
    default=("int8", "float32"),
    help="int16 is with activations of 16 bits.",
)
@click.option("--layers", "show_layers", is_flag=True, help="Show each kernel.")
@click.option("--kernel", "pattern", help="Show the instructions of kernels whose names hold this pattern.")
@click.option("--core", "cores", type=click.Choice(list(CORES)), multiple=True, help="Estimate cycles on this core.")
@click.option("--peers", is_flag=True, help="Count the peers' arm64 wheels, too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results to this file, too.")
def main(
    names: tuple[str, ...],
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    show_layers: bool,
    pattern: str | None,
    cores: tuple[str, ...],
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
            chosen = targets if precision in ACTIVATION_BITS else (FLOAT_TARGET,)
            runs = measure(bench, name, precision, chosen, Show(pattern, cores))
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
                if cores:
                    console.print(cores_table(result, cores))
                for kernel, lines in run.listings.items():
                    click.echo("\n".join([f"\n{kernel}, {target}: address, times, instruction", *lines]))
            if peers:
                of_peers = measure_peers(bench, name, precision, chosen)
                for result, target in zip(results[-len(chosen) :], chosen, strict=True):
                    result["peers"] = of_peers[target]
            if json_path is not None:
                text = json.dumps({"machine": machine, "results": results}, indent=2)
                json_path.write_text(text + "\n", encoding="utf-8")
    console.print(classes_table(results), kinds_table(results), peers_table(results))


if __name__ == "__main__":
    main()
