"""What exceptions from int8 cost in time on this machine: before a search, if it is to go by that, and after it."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from pipeline.analysis.candidates import Times, touched_operators
from pipeline.analysis.mixed_precision import Mixed, MixedPrecision
from pipeline.api import Quantized
from pipeline.compiler.build import compile_program
from pipeline.compiler.tuning import TuningDatabase
from pipeline.cpu import missing_features
from pipeline.errors import OptionError
from pipeline.files import temporary_folder, write_text
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.ir.types import LARGEST_INT16
from pipeline.ops import traits_of
from pipeline.profiling import Profile, profile
from pipeline.quantization.annotate import AnnotateOptions
from pipeline.quantization.realize import realize
from pipeline.quantization.spec import INT16
from pipeline.quantization.table import Calibrated
from pipeline.quantization.widening import widened
from pipeline.report.build_report import Library
from pipeline.schema import Record, read_json, to_json
from pipeline.targets import Target, load_target
from pipeline.workflow.measuring import runnable_library
from pipeline.workflow.progress import Progress


class OperatorTimes(Record, frozen=True, kw_only=True):
    """A file of measured times.

    Attributes:
        schema_version: of this format.
        model_sha256: of the model's file.
        target: name of the target that the libraries were built for.
        float32: microseconds of each operator of the float model, by the tensor that it computes.
        int8: the same of the int8 model.
        int16: the same of that with all activations in 16 bits that can have them.
    """

    schema_version: Literal[2] = 2
    model_sha256: str
    target: str
    float32: dict[str, float]
    int8: dict[str, float]
    int16: dict[str, float]


def read_times(path: Path) -> OperatorTimes:
    """Read a file of measured times.

    Raises:
        OptionError: it can't be read, isn't JSON, or doesn't fit the schema.
    """
    return read_json(path, OperatorTimes, "file of operator times", OptionError)


def measured_times(quantized: Quantized, path: Path, targets: Sequence[Target], tell: Progress) -> Times:
    """Return how much longer operators take in float and with 16 bits, from a file, or measured and put into the file.

    All three models are built and profiled for that, for the first of the targets that this machine can run, or for the
    machine itself.

    Args:
        quantized: the model with all in int8.
        path: the file.
        targets: what is built for.
        tell: see `Progress`.

    Raises:
        OptionError: the file is damaged, was measured of another model, or can't be written.
    """
    if path.exists():
        found = read_times(path)
        if found.model_sha256 != quantized.source.source_sha256:
            raise OptionError(
                f"The times in {path} were measured of another model. Delete the file, or name another one."
            )
    else:
        runnable = [t for t in targets if not missing_features(t.architecture, t.required_features)]
        found = _measure(quantized, runnable[0] if runnable else load_target("host"), tell)
        write_text(path, to_json(found))
    total = sum(found.float32.values())
    names = [str(b.var.name) for b in Dataflow.of(quantized.source.module).bindings]

    def longer(times: Mapping[str, float], int8: Mapping[str, float]) -> dict[str, float]:
        return {n: (times.get(n, 0.0) - int8.get(n, 0.0)) / total if total else 0.0 for n in names}

    wide = longer(found.int16, _where_products_are_summed(quantized.source, found.int8))
    touched = touched_operators(quantized.source)
    return Times(longer(found.float32, found.int8), wide, touched, f"measured for {found.target}, {path}")


def _where_products_are_summed(program: Program, times: Mapping[str, float]) -> dict[str, float]:
    """Return times of operators where what is fused into a convolution counts for the convolution.

    In profiles, it is the other way round. With 16 bits less is fused, so that each has a time of its own.
    """
    found, flow = dict(times), Dataflow.of(program.module)
    for binding in flow.bindings:
        var = binding.var
        while traits_of(binding).sums_products and str(var.name) not in found and len(flow.users[var]) == 1:
            var = flow.users[var][0].var
        if var is not binding.var and str(var.name) in found:
            found[str(binding.var.name)] = found.pop(str(var.name))
    return found


def _measure(quantized: Quantized, target: Target, tell: Progress) -> OperatorTimes:
    names = _tensors(quantized.source)
    tell("measuring operators in float, in int8 and with 16 bits", 0, None)
    with temporary_folder("pipeline-times-") as folder:
        paths = [folder / f"{kind}.so" for kind in ("float32", "int8", "int16")]
        for program, path in zip((quantized.source, quantized.program, _in_16_bits(quantized)), paths, strict=True):
            compile_program(program, target, path)
        float32, int8, int16 = (dict(_by_tensor(profile(p, threads=1, limits=False), names)) for p in paths)
    return OperatorTimes(
        model_sha256=quantized.source.source_sha256, target=target.name, float32=float32, int8=int8, int16=int16
    )


def _in_16_bits(quantized: Quantized) -> Program:
    """Return the model with all activations in 16 bits that can have them, to be timed.

    Their scales are those of 8 bits, with finer steps. Calibration would find others; times are the same.
    """
    annotation = widened(quantized.realized, quantized.annotation, AnnotateOptions(activation_bits=16), warn=False)
    wide = {t.name for t in annotation.calibrated() if t.spec is not None and t.spec.dtype == INT16.dtype}

    def entry(name: str, given: Calibrated) -> Calibrated:
        if name not in wide or given.dtype == INT16.dtype:
            return given
        scale = float(np.float32(given.scale * 255 / LARGEST_INT16))
        return msgspec.structs.replace(given, scale=scale, zero_point=0, dtype=INT16.dtype, channel_scales=())

    tensors = {name: entry(name, given) for name, given in quantized.table.tensors.items()}
    table = msgspec.structs.replace(quantized.table, tensors=tensors)
    return realize(quantized.realized, annotation, table, warn=False)[0]


def timed(
    mixed: Mixed,
    libraries: tuple[Library, ...],
    targets: Mapping[str, Target],
    database: TuningDatabase | None,
    tell: Progress,
) -> MixedPrecision:
    """Return what a search has found, with the times that its exceptions cost, if this machine can run a library.

    The model without exceptions is built for that as well, in a temporary folder.

    Args:
        mixed: the models.
        libraries: the libraries with exceptions.
        targets: the targets that these were built for, by name.
        database: the register tiles that they were built with.
        tell: see `Progress`.
    """
    library = runnable_library(libraries, targets)
    if library is None or not mixed.found.exceptions:
        return mixed.found
    tell("measuring what exceptions cost", 0, None)
    with temporary_folder("pipeline-mixed-") as folder:
        path = mixed.without.build(targets[library.target], folder / "int8.so", tuned=database)
        int8, own = (profile(p, threads=1, limits=False) for p in (path, library.path))
    costs = exception_times(mixed, int8, own)
    return replace(
        mixed.found,
        exceptions=tuple(replace(e, milliseconds=cost) for e, cost in zip(mixed.found.exceptions, costs, strict=True)),
        int8_milliseconds=int8.run_minimum_us / 1e3,
        mixed_milliseconds=own.run_minimum_us / 1e3,
    )


def exception_times(mixed: Mixed, int8: Profile, own: Profile) -> list[float]:
    """Return how many milliseconds each exception costs.

    An exception's cost is by how much its operators, and those next to them, take longer than without exceptions: a
    conversion stands beside them, and what was fused with them in int8 isn't in float. What is next to several counts
    for the first of them.

    Args:
        mixed: the models.
        int8: profile of the library without exceptions.
        own: profile of that with them.
    """
    bindings = Dataflow.of(mixed.quantized.source.module).bindings
    before, after = (_by_tensor(measured, _tensors(mixed.quantized.source)) for measured in (int8, own))
    neighbours = collections.defaultdict[str, set[str]](set)
    for binding in bindings:
        for read in binding.reads:
            neighbours[str(binding.var.name)].add(str(read.name))
            neighbours[str(read.name)].add(str(binding.var.name))
    excepted = {name for exception in mixed.found.exceptions for name in exception.operators}
    taken, costs = set[str](), list[float]()
    for exception in mixed.found.exceptions:
        beside = {n for name in exception.operators for n in neighbours[name]} - excepted
        counted = {*exception.operators, *beside} - taken
        taken |= counted
        costs.append(sum(after[name] - before[name] for name in counted) / 1e3)
    return costs


def _tensors(program: Program) -> frozenset[str]:
    """Return the names of a program's tensors."""
    bindings = Dataflow.of(program.module).bindings
    return frozenset(str(v.name) for b in bindings for v in (b.var, *b.reads))


def _by_tensor(measured: Profile, known: frozenset[str]) -> dict[str, float]:
    """Return the microseconds of a library's operators by the float program's tensors that they compute or convert."""
    times: dict[str, float] = collections.defaultdict(float)
    for operator in measured.operators:
        name = operator.name
        # What is made of a tensor has a name that begins with the tensor's.
        while name not in known and "." in name:
            name = name.rpartition(".")[0]
        times[name] += operator.minimum_us
    return times
