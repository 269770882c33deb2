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

import dataclasses
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

FACTORS = (0.25, 0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.4, 2.0, 4.0)
"""A constant is tried with its value times these."""

WORTHWHILE = 1e-4
"""A smaller gain isn't one."""


class LayerData(msgspec.Struct, frozen=True):
    """What tiles take for a layer.

    Attributes:
        kind: module and name of the workload's class, in `pipeline.kernels.gemm`.
        workload: its fields, without the machine.
        target: what was built for.
        costs: by tile, as "mr x nv": microseconds or cycles.
    """

    kind: str
    workload: dict[str, Any]
    target: str
    costs: dict[str, float]


class Data(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        machine: on what.
        unit: of the costs.
        layers: by the key that tuning databases have, too.
    """

    machine: dict[str, str]
    unit: str
    layers: dict[str, LayerData]


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
        program = pipeline.load(NETWORKS[name].write(folder / f"{name}.onnx"))
        model = pipeline.quantize(program, NETWORKS[name].samples(SAMPLES)) if precision == "int8" else None
        lowered = tunable_layers(program if model is None else model.program, description, machine_of(description))
        layers = {workload.key: workload for _, workload, _ in lowered}

        def write(path: Path, where: str, tuned: TuningDatabase | None) -> Path:
            if model is None:
                return pipeline.compile_program(program, pipeline.load_target(where), path, tuned=tuned)
            return model.build(where, path, tuned=tuned)

        trials = []
        for rank in range(min(most, max(len(workload.candidates()) for workload in layers.values()))):
            tiles = {key: _at(workload.candidates(), rank) for key, workload in layers.items()}
            database = TuningDatabase(tiles={key: _forced(tile) for key, tile in tiles.items()})
            trials.append(Trial(write(folder / f"{name}.{rank}.so", target, database), tiles))
        kernels = [(_kernel(operation, description), workload.key) for _, workload, operation in lowered]
        keys = _keys(read_metadata(trials[0].library).operators, kernels)
        return cls(trials, layers, keys, write(folder / f"{name}.host.so", "host", None))


def _kernel(operation: Operation, target: Target) -> str:
    """Return an operation's kernel's name, but for its number."""
    isa = machine_of(target).isa
    return kernel_name(operation, registry.select(operation, isa).variant, isa)


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


def constants_of(kinds: set[str], dtypes: set[str]) -> list[Constant]:
    """Return the constants of cost models, those of their base classes included."""
    classes = {base for kind in kinds for base in _class(kind).__mro__ if base.__module__.startswith(PREFIX)}
    found = []
    for module in sorted({base.__module__ for base in classes}):
        loaded = importlib.import_module(module)
        for name, value in vars(loaded).items():
            if not name.endswith(FITTED_SUFFIXES) or not name.isupper():
                continue
            if isinstance(value, dict):
                found += [Constant(loaded, name, key) for key in value if key in dtypes]
            elif isinstance(value, int | float):
                found.append(Constant(loaded, name, None))
    return found


def _class(kind: str) -> type[Workload]:
    module, _, name = kind.rpartition(".")
    found: type[Workload] = getattr(importlib.import_module(PREFIX + module), name)
    return found


@dataclass(frozen=True)
class Layer:
    """A layer whose tiles' costs are known."""

    workload: Workload
    costs: dict[RegisterTile, float]

    @classmethod
    def of(cls, data: LayerData) -> Layer:
        """Return a layer as it was written to a file."""
        workload = _class(data.kind)(machine=machine_of(pipeline.load_target(data.target)), **data.workload)
        sizes = {tuple(map(int, tile.split(" x "))): cost for tile, cost in data.costs.items()}
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
            for factor in FACTORS:
                constant.set(here * factor)
                if (tried := loss(layers)) < best - WORTHWHILE:
                    best, improved = tried, True
                    break
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
    layers: dict[str, LayerData] = {}
    machine = {"apache-tvm": version("apache-tvm")} | ({"cpu": cpu_name()} if core is None else {"core": core})
    for name in names or DEFAULT_NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials.build(name, precision, target, tiles, Path(folder))
            costs = timed(trials, rounds) if core is None else simulated(trials, target, core, Path(folder))
            for trial, by_operator in costs:
                for operator, key in trials.keys.items():
                    workload, tile = trials.layers[key], trial.tiles[key]
                    layer = layers.setdefault(key, _without_costs(workload, pipeline.load_target(target).name))
                    cost, name_of_tile = by_operator[operator], f"{tile.mr} x {tile.nv}"
                    layer.costs[name_of_tile] = min(cost, layer.costs.get(name_of_tile, float("inf")))
        click.echo(f"{name}: {len(layers)} layers", err=True)
        data = Data(machine, "microseconds" if core is None else "cycles", layers)
        rounded = json.loads(msgspec.json.encode(data), parse_float=lambda text: float(f"{float(text):.4g}"))
        path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def _without_costs(workload: Workload, target: str) -> LayerData:
    fields = {field.name: getattr(workload, field.name) for field in dataclasses.fields(workload)}
    del fields["machine"]
    kind = f"{type(workload).__module__.removeprefix(PREFIX)}.{type(workload).__name__}"
    return LayerData(kind, fields, target, {})


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def fit(paths: tuple[Path, ...]) -> None:
    """Fit the cost models' constants to what PATHS hold."""
    data = [msgspec.json.decode(path.read_bytes(), type=Data) for path in paths]
    layers = [layer for part in data for layer in part.layers.values() if len(layer.costs) > 1]
    known = [Layer.of(layer) for layer in layers]
    constants = constants_of({layer.kind for layer in layers}, {layer.workload["dtype"] for layer in layers})
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
