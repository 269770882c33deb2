"""Builds with `--max-drop`: what is checked before the search, which samples it measures on, and what it has cost."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.analysis.metrics import BUILT_IN, Drop, load_metric
from pipeline.analysis.mixed_precision import Mixed, MixedPrecision, mix_precision
from pipeline.api import Quantized
from pipeline.compiler.tuning import TuningDatabase
from pipeline.config.options import BuildOptions
from pipeline.errors import OptionError
from pipeline.ir.dataflow import Dataflow, variables
from pipeline.ir.program import Program
from pipeline.profiling import Profile, profile
from pipeline.quantization.annotate import AnnotateOptions, annotate
from pipeline.report.build_report import Library
from pipeline.samples import Samples
from pipeline.targets import Target
from pipeline.workflow.measuring import check_reusable, measured_on, runnable_library
from pipeline.workflow.progress import Progress
from pipeline.workflow.quantizing import quantized_with_progress

HELD_BACK = 0.2
"""Share of the samples that `max_drop` is measured on where no option says so."""


def check_mixable(samples: Samples | None, options: BuildOptions) -> BuildOptions:
    """Return the options of a build, with the samples that a drop is measured on; refuse what couldn't be searched for.

    Raises:
        OptionError: an option doesn't go with `max_drop`, or samples can be read only once.
        MetricError: the user's metric can't be loaded.
    """
    mixed = options.mixed
    if mixed.max_drop is None:
        if mixed.metric != type(mixed)().metric:
            raise OptionError("--metric is what --max-drop limits; give that, too.")
        return options
    Drop.of(mixed.max_drop)
    for name, value in (("--annotation", options.annotation), ("--calibration", options.calibration)):
        if value is not None:
            raise OptionError(f"--max-drop decides what is int8, and calibrates for it; leave {name} out.")
    if mixed.metric not in BUILT_IN:
        load_metric(mixed.metric)
    calibration = options.quantize.calibrate
    if options.check_samples is None and calibration.hold_back == 0:
        calibration = replace(calibration, hold_back=HELD_BACK)
        options = replace(options, quantize=replace(options.quantize, calibrate=calibration))
    check_reusable(samples, replace(options, check_samples=None))
    return options


def mixed_with_progress(program: Program, samples: Samples | None, options: BuildOptions, tell: Progress) -> Mixed:
    """Quantize with the exceptions that `max_drop` needs, and report progress; see `mix_precision`."""
    metric = options.mixed.metric if options.mixed.metric in BUILT_IN else load_metric(options.mixed.metric)

    def quantize(wanted: AnnotateOptions) -> Quantized:
        changed = replace(options, quantize=replace(options.quantize, annotate=wanted))
        return quantized_with_progress(program, samples, changed, annotate(program, wanted), None, tell)

    def feeds(quantized: Quantized) -> Iterator[tuple[str, dict[str, Any]]]:
        return measured_on(samples, options, quantized.source)[0]

    described = measured_on(samples, options, program)[1]
    drop = Drop.of(options.mixed.max_drop or 0)
    return mix_precision(quantize, options.quantize.annotate, feeds, described, metric, drop, tell)


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
    with tempfile.TemporaryDirectory(prefix="pipeline-mixed-") as folder:
        path = mixed.without.build(targets[library.target], Path(folder) / "int8.so", tuned=database)
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
    names = {str(v.name) for b in bindings for v in (b.var, *variables(b.value))}
    times = collections.defaultdict[str, float](float)
    for factor, measured in ((-1, int8), (1, own)):
        for operator in measured.operators:
            times[_tensor(operator.name, names)] += factor * operator.minimum_us / 1e3
    neighbours = collections.defaultdict[str, set[str]](set)
    for binding in bindings:
        for read in variables(binding.value):
            neighbours[str(binding.var.name)].add(str(read.name))
            neighbours[str(read.name)].add(str(binding.var.name))
    taken = {name for exception in mixed.found.exceptions for name in exception.operators}
    costs = []
    for exception in mixed.found.exceptions:
        beside = {n for name in exception.operators for n in neighbours[name]} - taken
        taken |= beside
        costs.append(sum(times[name] for name in {*exception.operators, *beside}))
    return costs


def _tensor(name: str, known: set[str]) -> str:
    """Return which of the float program's tensors an operator of a library belongs to, by what its name begins with."""
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name
