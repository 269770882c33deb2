"""Tuning: measures the most promising register tiles of each layer on this machine, and keeps the quickest.

Tuning is optional: without a database, the cost model chooses tiles (`kernels.gemm.register_tile`). Builds with a
database are repeatable, as all measurements are in its file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import tvm
from msgspec import Meta

from pipeline.compiler.codegen import concurrently
from pipeline.compiler.kernel_passes import code_generation
from pipeline.compiler.lower import lower_until_kernels, machine_of
from pipeline.compiler.select_kernels import as_operation
from pipeline.cpu import missing_features
from pipeline.errors import OptionError, TableError
from pipeline.files import write_text
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.kernels import registry
from pipeline.kernels.gemm.register_tile import Workload
from pipeline.kernels.machine import Machine
from pipeline.kernels.operation import Kernel, Operation
from pipeline.schema import Record, read_json, to_json
from pipeline.targets import Target

CANDIDATES = 8
"""How many tiles are measured for each layer: those that the cost model ranks highest."""

ROUNDS = 12
"""How often each candidate is measured, in turns; the shortest time of each counts."""

TURN_SECONDS = 1e-3
"""About how long one measurement takes, by repeating the layer."""

WORTHWHILE = 0.97
"""The cost model's choice is kept unless another tile takes less than this share of its time."""

Count = Annotated[int, Meta(ge=1, le=64)]
Microseconds = Annotated[float, Meta(gt=0)]


class TunedTile(Record, frozen=True, kw_only=True):
    """The measurements of a layer.

    Attributes:
        mr, nv: rows and vectors of the quickest tile, which is used.
        microseconds: time of the layer with it.
        model_mr, model_nv: rows and vectors of the cost model's choice.
        model_microseconds: time of the layer with that.
    """

    mr: Count
    nv: Count
    microseconds: Microseconds
    model_mr: Count
    model_nv: Count
    model_microseconds: Microseconds


class TuningDatabase(Record, frozen=True, kw_only=True):
    """Measured tiles by `Workload.key`, which contains the instruction set."""

    schema_version: Literal[1] = 1
    tiles: dict[str, TunedTile] = msgspec.field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> TuningDatabase:
        """Read a database. A file that doesn't exist counts as an empty database.

        Raises:
            TableError: it can't be read, isn't JSON, or doesn't fit the schema.
        """
        if not path.exists():
            return cls()
        return read_json(path, cls, "tuning database", TableError)

    def save(self, path: Path) -> None:
        """Write the database as JSON, sorted; see `files.write_text`."""
        write_text(path, to_json(msgspec.structs.replace(self, tiles=dict(sorted(self.tiles.items())))))

    def choices(self) -> Mapping[str, tuple[int, int]]:
        """Return (mr, nv) by key, as `Machine.tuned` takes them."""
        return {key: (tile.mr, tile.nv) for key, tile in self.tiles.items()}


@dataclass(frozen=True)
class TunedLayer:
    """The name of a layer that was built with a measured tile, and the measurements."""

    layer: str
    tile: TunedTile


def tune(
    program: Program, target: Target, database: TuningDatabase, progress: Callable[[int], None] = lambda _: None
) -> tuple[TuningDatabase, tuple[TunedLayer, ...]]:
    """Measure those layers of a program that aren't in a database yet.

    Layers are convolutions and matrix products with constant weights whose kernels use vector registers.

    Args:
        program: float or int8.
        target: what the program will be built for. This machine must be able to run code for it.
        database: earlier measurements.
        progress: called with the number of layers measured so far.

    Returns:
        the database with the new measurements, and the program's layers with their measurements.

    Raises:
        OptionError: this machine can't run code for the target.
    """
    if missing := missing_features(target.architecture, target.required_features):
        raise OptionError(
            f"Layers for {target.name} can't be tuned here: this machine lacks {', '.join(missing)}. Tune on a machine "
            "that has it; builds anywhere can use the database."
        )
    machine = machine_of(target)
    layers = tunable_layers(program, target, machine)
    unknown = {layer.key: (layer, operation) for _, layer, operation in layers if layer.key not in database.tiles}
    compiled = concurrently(
        lambda pair: _CompiledCandidates(*pair, machine, target.tvm_target()), list(unknown.values())
    )
    tiles = dict(database.tiles)
    # TVM keeps the number of threads that kernels use per calling thread; a new thread leaves the caller's unchanged.
    with ThreadPoolExecutor(1, initializer=_use_one_thread) as pool:
        for done, (key, trial) in enumerate(zip(unknown, compiled, strict=True), 1):
            tiles[key] = pool.submit(trial.measure).result()
            progress(done)
    return TuningDatabase(tiles=tiles), tuple(TunedLayer(name, tiles[layer.key]) for name, layer, _ in layers)


def _use_one_thread() -> None:
    big_cores, threads = 1, 1
    tvm.get_global_func("runtime.config_threadpool")(big_cores, threads)


def tunable_layers(program: Program, target: Target, machine: Machine) -> list[tuple[str, Workload, Operation]]:
    """Return name, workload and operation of each layer that can be tuned, in order of execution."""
    module = lower_until_kernels(program.module, target.tvm_target(), machine)
    found = []
    for binding in Dataflow.of(module).bindings:
        operation = as_operation(binding)
        layer = None if operation is None else registry.workload(operation, machine)
        if operation is not None and layer is not None:
            found.append((binding.var.name, layer, operation))
    return found


class _CompiledCandidates:
    """A layer, compiled with each tile that is to be measured."""

    def __init__(self, layer: Workload, operation: Operation, machine: Machine, target: tvm.target.Target) -> None:
        self.tiles = layer.candidates()[:CANDIDATES]
        entry = registry.select(operation, machine)
        kernels = [
            entry.generate(operation, dataclasses.replace(machine, tuned={layer.key: (tile.mr, tile.nv)}))
            for tile in self.tiles
        ]
        functions = {f"tile{i}": k.func.with_attr("global_symbol", f"tile{i}") for i, k in enumerate(kernels)}
        with code_generation():
            self.module = tvm.compile(tvm.IRModule(functions), target).mod
        self.arguments = [_arguments(kernel) for kernel in kernels]

    def measure(self) -> TunedTile:
        """Measure all tiles, in turns, and return the result."""
        shortest = [float("inf")] * len(self.tiles)
        for _ in range(ROUNDS):
            for i, arguments in enumerate(self.arguments):
                number = max(1, int(TURN_SECONDS / shortest[i]))
                timer = self.module.time_evaluator(f"tile{i}", tvm.cpu(), number=number, repeat=1)
                shortest[i] = min(shortest[i], *timer(*arguments).results)
        best = min(range(len(shortest)), key=shortest.__getitem__)
        if shortest[best] > WORTHWHILE * shortest[0]:
            best = 0
        tile, model = self.tiles[best], self.tiles[0]
        return TunedTile(
            mr=tile.mr,
            nv=tile.nv,
            microseconds=shortest[best] * 1e6,
            model_mr=model.mr,
            model_nv=model.nv,
            model_microseconds=shortest[0] * 1e6,
        )


def _arguments(kernel: Kernel) -> list[Any]:
    """Return arguments for a kernel: its constants, and random numbers for all other tensors."""
    random = np.random.default_rng(0)
    arguments = []
    constants = {i: a for i, a in enumerate(kernel.arguments) if not isinstance(a, int)}
    for i, param in enumerate(kernel.func.params):
        shape = tuple(int(d) for d in param.shape)
        value = constants[i] if i in constants else random.integers(0, 128, shape)
        arguments.append(tvm.runtime.tensor(np.asarray(value).reshape(shape).astype(str(param.dtype))))
    return arguments
