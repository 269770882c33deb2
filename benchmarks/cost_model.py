"""The constants by which register tiles are chosen: measures what tiles take, and fits the constants to it.

    python -m benchmarks.cost_model measure DATA.json [mobilenet_v1 ...] [--target host] [--core cortex-a76]
    python -m benchmarks.cost_model fit DATA.json [DATA.json ...]

`measure` builds each network several times, each time with another tile for every layer, and measures all layers: by
time on this machine, one thread, the libraries in turns; or, for an arm64 target and a core, by the cycles that LLVM's
model of the core gives for what is executed under emulation (`benchmarks.arm64`).

`fit` changes one constant after the other as long as layers get quicker tiles on average. It prints the constants that
the code has and the best ones found, with the loss of both: how much longer layers take with the tiles that a cost
model chooses than with each one's quickest, on average. Each cost model has the constants of its module
(`pipeline.kernels.gemm.register_tile` and its like); what isn't a number of cycles or bytes isn't fitted.

The data that the code's constants stand on are in benchmarks/data.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec
import numpy as np
import numpy.typing as npt
import platformdirs
from rich.console import Console
from rich.table import Table

import pipeline
from benchmarks.arm64.__main__ import CPUS, find_sysroot
from benchmarks.arm64.cores import CORES
from benchmarks.arm64.counting import Emulator, build_plugin
from benchmarks.arm64.libraries import Show, count_library
from benchmarks.machine import cpu_name
from benchmarks.networks import NETWORKS
from pipeline.compiler.lower import machine_of
from pipeline.compiler.tuning import TunedTile, TuningDatabase, tunable_layers
from pipeline.kernels import registry
from pipeline.kernels.gemm.register_tile import RegisterTile, Workload
from pipeline.kernels.naming import kernel_name
from pipeline.kernels.operation import Operation
from pipeline.library.metadata import OperatorRecord, read_metadata
from pipeline.runtime.local import Runner
from pipeline.targets import Target

DEFAULT_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet18")

SAMPLES = 4

PREFIX = "pipeline.kernels.gemm."

FITTED_SUFFIXES = ("CYCLES", "CYCLES_PER_LOAD", "BYTES_PER_CYCLE", "INSTRUCTIONS", "ACCUMULATORS")
"""What the names of constants that are fitted end with."""

FACTORS = (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
"""A constant is tried with its value in the code times these: what is far from it fits the noise."""

WORTHWHILE = 1e-3
"""A smaller gain isn't one."""


class Data(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        machine: on what.
        unit: of the costs.
        target: what was built for.
        precision: of the networks, "int8" or "float32".
        networks: whose layers were measured.
        costs: by the layer's key, which tuning databases have, too, and by tile, as "mr x nv".
    """

    machine: dict[str, str]
    unit: str
    target: str
    precision: str
    networks: list[str]
    costs: dict[str, dict[str, float]]


def lower(
    name: str, precision: str, target: Target, folder: Path
) -> tuple[pipeline.Program, pipeline.Quantized | None, list[tuple[Workload, Operation]]]:
    """Return a network, quantized unless it is to be float32, and its layers that have a choice of tiles."""
    program = pipeline.load(NETWORKS[name].write(folder / f"{name}.onnx"))
    model = pipeline.quantize(program, NETWORKS[name].samples(SAMPLES)) if precision == "int8" else None
    layers = tunable_layers(program if model is None else model.program, target, machine_of(target))
    return program, model, [(workload, operation) for _, workload, operation in layers]


@dataclass(frozen=True)
class Trial:
    """A library in which every layer has a tile that is tried."""

    library: Path
    tiles: Mapping[str, RegisterTile]


@dataclass(frozen=True)
class Trials:
    """A network's libraries, and which of their operators are which layers."""

    libraries: list[Trial]
    layers: dict[str, Workload]
    keys: dict[str, str]
    host: Path

    @classmethod
    def build(cls, name: str, precision: str, target: str, most: int, folder: Path) -> Trials:
        """Build a network with each layer's first tile, second, and so on, as the cost model has them."""
        description = pipeline.load_target(target)
        program, model, lowered = lower(name, precision, description, folder)
        layers = {workload.key: workload for workload, _ in lowered}

        def write(path: Path, where: str, tuned: TuningDatabase | None) -> Path:
            if model is None:
                return pipeline.compile_program(program, pipeline.load_target(where), path, tuned=tuned)
            return model.build(where, path, tuned=tuned)

        trials = []
        for rank in range(min(most, max(len(workload.candidates()) for workload in layers.values()))):
            tiles = {key: _at(workload.candidates(), rank) for key, workload in layers.items()}
            database = TuningDatabase(tiles={key: _forced(tile) for key, tile in tiles.items()})
            trials.append(Trial(write(folder / f"{name}.{rank}.so", target, database), tiles))
        kernels = [(_kernel(operation, description), workload.key) for workload, operation in lowered]
        keys = _keys(read_metadata(trials[0].library).operators, kernels)
        return cls(trials, layers, keys, write(folder / f"{name}.host.so", "host", None))


def _kernel(operation: Operation, target: Target) -> str:
    """Return an operation's kernel's name, but for its number."""
    machine = machine_of(target)
    return kernel_name(operation, registry.select(operation, machine).variant, machine.isa)


def _keys(operators: Sequence[OperatorRecord], kernels: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the layers' keys by operator; those with the same kernel are in the same order in both lists."""
    waiting = list(kernels)
    keys = {}
    for operator in operators:
        base = re.sub(r"__\d+$", "", operator.kernel)
        if (found := next((pair for pair in waiting if pair[0] == base), None)) is not None:
            waiting.remove(found)
            keys[operator.name] = found[1]
    assert not waiting, waiting
    return keys


def _at(tiles: Sequence[RegisterTile], rank: int) -> RegisterTile:
    return tiles[min(rank, len(tiles) - 1)]


def _forced(tile: RegisterTile) -> TunedTile:
    return TunedTile(
        mr=tile.mr, nv=tile.nv, microseconds=1.0, model_mr=tile.mr, model_nv=tile.nv, model_microseconds=1.0
    )


def noise(shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an input."""
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def timed(trials: Trials, rounds: int) -> Iterator[tuple[Trial, dict[str, float]]]:
    """Yield the shortest time of each operator, in microseconds, by library."""
    runners = [Runner(trial.library, num_threads=1) for trial in trials.libraries]
    feeds = {spec.name: noise(spec.shape) for spec in runners[0].inputs}
    shortest: list[dict[str, float]] = [{} for _ in runners]
    for _ in range(rounds):
        for runner, best in zip(runners, shortest, strict=True):
            trace = runner.trace(feeds, repeats=3)
            for record, kernel in zip(runner.metadata.operators, trace.kernels, strict=True):
                best[record.name] = min(best.get(record.name, float("inf")), min(kernel.seconds) * 1e6)
    yield from zip(trials.libraries, shortest, strict=True)


def simulated(trials: Trials, target: str, core: str, folder: Path) -> Iterator[tuple[Trial, dict[str, float]]]:
    """Yield the cycles of each operator by library; those with the same kernel have the same."""
    cache = platformdirs.user_cache_path("onnx-int8-pipeline") / "arm64"
    emulator = Emulator(find_sysroot(cache), build_plugin(folder))
    (spec,) = Runner(trials.host).inputs
    for trial in trials.libraries:
        feeds = {spec.name: noise(spec.shape)}
        run = count_library(emulator, trial.library, trials.host, feeds, CPUS[target], Show(cores=(core,)))
        cycles = {layer.kernel: layer.costs[core].cycles / layer.calls for layer in run.layers if layer.costs}
        operators = read_metadata(trial.library).operators
        yield trial, {operator.name: cycles[operator.kernel] for operator in operators}


@dataclass(frozen=True)
class Constant:
    """A number in a cost model's module, or in one of its tables."""

    module: ModuleType
    name: str
    key: str | None

    def __str__(self) -> str:
        """Return what it is called in the code."""
        where = f"{self.module.__name__.removeprefix(PREFIX)}.{self.name}"
        return where if self.key is None else f"{where}[{self.key!r}]"

    @property
    def value(self) -> float:
        """Its value, which can be set."""
        found: Any = getattr(self.module, self.name)
        value: float = found if self.key is None else found[self.key]
        return value

    def set(self, value: float) -> None:
        """Change it, for this process."""
        if self.key is None:
            setattr(self.module, self.name, value)
        else:
            getattr(self.module, self.name)[self.key] = value


def constants_of(workloads: Sequence[Workload]) -> list[Constant]:
    """Return the constants of cost models, those of their base classes included."""
    modules = {base.__module__ for workload in workloads for base in type(workload).__mro__}
    dtypes = {workload.dtype for workload in workloads}
    found = []
    for module in sorted(module for module in modules if module.startswith(PREFIX)):
        loaded = importlib.import_module(module)
        for name, value in vars(loaded).items():
            if not name.endswith(FITTED_SUFFIXES) or not name.isupper():
                continue
            if isinstance(value, dict):
                found += [Constant(loaded, name, key) for key in value if key in dtypes]
            elif isinstance(value, int | float):
                found.append(Constant(loaded, name, None))
    return found


@dataclass(frozen=True)
class Layer:
    """A layer whose tiles' costs are known."""

    workload: Workload
    costs: dict[RegisterTile, float]

    @classmethod
    def of(cls, workload: Workload, costs: Mapping[str, float]) -> Layer:
        """Return a layer, given its costs as they were written to a file."""
        sizes = {tuple(map(int, tile.split(" x "))): cost for tile, cost in costs.items()}
        return cls(workload, {RegisterTile(mr, nv): cost for (mr, nv), cost in sizes.items()})

    @property
    def loss(self) -> float:
        """How much longer the layer takes with the model's choice among the tiles that were measured."""
        chosen = min(self.costs, key=lambda tile: (self.workload.cycles(tile), tile.mr, tile.nv))
        return self.costs[chosen] / min(self.costs.values()) - 1


def loss(layers: Sequence[Layer]) -> float:
    """Return the average loss."""
    return sum(layer.loss for layer in layers) / len(layers)


def fitted(layers: Sequence[Layer], constants: Sequence[Constant]) -> dict[Constant, float]:
    """Return the best constants found; the module's own stay what they were."""
    before = {constant: constant.value for constant in constants}
    best = loss(layers)
    improved = True
    while improved:
        improved = False
        for constant in constants:
            here = constant.value
            losses = {}
            for factor in FACTORS:
                constant.set(before[constant] * factor)
                losses[factor] = loss(layers)
            factor = min(losses, key=losses.__getitem__)
            if losses[factor] < best - WORTHWHILE:
                best, improved = losses[factor], True
                here = before[constant] * factor
            constant.set(here)
    found = {constant: constant.value for constant in constants}
    for constant, value in before.items():
        constant.set(value)
    return found


@click.group()
def main() -> None:
    """Measure register tiles, and fit the constants by which they are chosen."""


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(sorted(NETWORKS)))
@click.option("--target", default="host", show_default=True)
@click.option("--core", type=click.Choice(list(CORES)), help="Of an arm64 target.")
@click.option("--precision", type=click.Choice(["int8", "float32"]), default="int8", show_default=True)
@click.option("--tiles", type=click.IntRange(min=2), default=24, show_default=True, help="At most, for each layer.")
@click.option("--rounds", type=click.IntRange(min=1), default=8, show_default=True, help="Turns of each library.")
def measure(
    path: Path, names: tuple[str, ...], target: str, core: str | None, precision: str, tiles: int, rounds: int
) -> None:
    """Measure the layers of the networks NAMES with different tiles, and write what they take to PATH."""
    costs: dict[str, dict[str, float]] = {}
    machine = {"apache-tvm": version("apache-tvm")} | ({"cpu": cpu_name()} if core is None else {"core": core})
    done: list[str] = []
    for name in names or DEFAULT_NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials.build(name, precision, target, tiles, Path(folder))
            measured = timed(trials, rounds) if core is None else simulated(trials, target, core, Path(folder))
            for trial, by_operator in measured:
                for operator, key in trials.keys.items():
                    tile = f"{trial.tiles[key].mr} x {trial.tiles[key].nv}"
                    known = costs.setdefault(key, {})
                    known[tile] = min(by_operator[operator], known.get(tile, float("inf")))
        done.append(name)
        click.echo(f"{name}: {len(costs)} layers", err=True)
        unit = "microseconds" if core is None else "cycles"
        data = Data(machine, unit, pipeline.load_target(target).name, precision, done, costs)
        rounded = json.loads(msgspec.json.encode(data), parse_float=lambda text: float(f"{float(text):.4g}"))
        path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def layers_of(data: Data) -> list[Layer]:
    """Return the layers of a file: its networks are read and lowered again."""
    workloads: dict[str, Workload] = {}
    for name in data.networks:
        with tempfile.TemporaryDirectory() as folder:
            _, _, layers = lower(name, data.precision, pipeline.load_target(data.target), Path(folder))
        workloads |= {workload.key: workload for workload, _ in layers}
    known = [(workloads[key], costs) for key, costs in data.costs.items() if key in workloads and len(costs) > 1]
    return [Layer.of(workload, costs) for workload, costs in known]


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def fit(paths: tuple[Path, ...]) -> None:
    """Fit the cost models' constants to what PATHS hold."""
    data = [msgspec.json.decode(path.read_bytes(), type=Data) for path in paths]
    known = [layer for part in data for layer in layers_of(part)]
    constants = constants_of([layer.workload for layer in known])
    found = fitted(known, constants)
    before = loss(known)
    table = Table("constant", "in the code", "fitted", title=f"{len(known)} layers")
    for constant in constants:
        table.add_row(str(constant), f"{constant.value:g}", f"{found[constant]:.3g}")
    for constant, value in found.items():
        constant.set(value)
    table.add_row("loss", f"{before:.1%}", f"{loss(known):.1%}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
