"""Builds with `--max-drop`: what is checked before the search, which samples it measures on, and what it has cost."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.analysis.metrics import BUILT_IN, Drop, MeasuredSample, UserMetric, load_metric
from pipeline.analysis.mixed_precision import Mixed, MixedPrecision, mix_precision
from pipeline.api import Quantized
from pipeline.compiler.tuning import TuningDatabase
from pipeline.config.options import BuildOptions, MixedPrecisionOptions, QuantizeOptions
from pipeline.config.schema import keywords, options_of
from pipeline.distances import Array
from pipeline.errors import OptionError
from pipeline.ir.dataflow import Dataflow, variables
from pipeline.ir.program import Program
from pipeline.profiling import Profile, profile
from pipeline.quantization.annotate import AnnotateOptions, annotate
from pipeline.quantization.steps import check_options
from pipeline.report.build_report import Library
from pipeline.samples import Samples, with_image_options
from pipeline.targets import Target
from pipeline.workflow.measuring import check_reusable, measured_on, runnable_library
from pipeline.workflow.progress import Progress
from pipeline.workflow.quantizing import quantized_with_progress

HELD_BACK = 0.2
"""Share of the samples that `max_drop` is measured on where no option says so."""


@keywords(QuantizeOptions)
def quantize_within(
    program: Program,
    samples: Samples,
    max_drop: float | str,
    metric: str | Callable[[dict[str, Array], MeasuredSample], Any] = "sqnr",
    *,
    check_samples: str | Path | None = None,
    progress: Progress | None = None,
    **keys: Any,
) -> Mixed:
    """Make an int8 model whose metric is at most so much worse than float's, with as few exceptions as possible.

    Args:
        program: the float program.
        samples: see `pipeline.quantize`. They are read several times.
        max_drop: how much worse than float the model may be: a difference, such as 0.005, or a text such as "0.5%",
            relative to float's value.
        metric: what that is measured by: "sqnr" (noise by signal: 0.01 is 20 dB), "cosine" or "kl" of the outputs,
            "FILE.py:FUNCTION", or a function, which gets outputs by name and a `MeasuredSample`, and returns a number
            of which more is better.
        check_samples: folder of samples to measure on; None means those that `hold_back` keeps from calibration, a
            fifth by default.
        progress: see `workflow.Progress`.
        **keys: {options}

    Returns:
        `quantized`, the model; `found`, what was excepted from int8 and what that gained; and `without`, the model
        without exceptions.

    Raises:
        QuantizationError: the drop can't be met; the message says what was reached.
        SampleError: the samples don't fit the model, or there are too few.
        OptionError: an option is unknown or out of range, or samples can be read only once.
        MetricError: the metric raised an exception, or what it returned is no number.
    """
    drop, own = Drop.of(max_drop), _metric(metric)
    checked = None if check_samples is None else Path(check_samples)
    options = _held_back(BuildOptions(quantize=QuantizeOptions.from_values(keys), check_samples=checked))
    _check_reusable(samples, options)
    check_options(options.quantize, table_given=False, samples_given=True)
    given = with_image_options(samples, options.quantize.images)
    return mixed_with_progress(program, given, options, own, drop, progress or (lambda *_: None))


def check_mixable(samples: Samples | None, options: BuildOptions) -> BuildOptions:
    """Return the options of a build, with the samples that a drop is measured on; refuse what couldn't be searched for.

    Raises:
        OptionError: an option doesn't go with `max_drop`, or samples can be read only once.
        MetricError: the user's metric can't be loaded.
    """
    mixed = options.mixed
    if mixed.max_drop is None:
        given = [o for o in options_of(MixedPrecisionOptions) if getattr(mixed, o.key) != o.default]
        if given:
            raise OptionError(f"{given[0].flag} is about what --max-drop searches for; give that, too.")
        return options
    Drop.of(mixed.max_drop)
    for name, value in (("--annotation", options.annotation), ("--calibration", options.calibration)):
        if value is not None:
            raise OptionError(f"--max-drop decides what is int8, and calibrates for it; leave {name} out.")
    _metric(mixed.metric)
    _check_reusable(samples, options)
    return _held_back(options)


def _metric(metric: str | Callable[[dict[str, Array], MeasuredSample], Any]) -> UserMetric | str:
    if callable(metric):
        return UserMetric(getattr(metric, "__name__", type(metric).__name__), b"", metric)
    return metric if metric in BUILT_IN else load_metric(metric)


def _held_back(options: BuildOptions) -> BuildOptions:
    """Return options by which samples are held back, if there are no others to measure on."""
    calibration = options.quantize.calibrate
    if options.check_samples is not None or calibration.hold_back:
        return options
    calibration = replace(calibration, hold_back=HELD_BACK)
    return replace(options, quantize=replace(options.quantize, calibrate=calibration))


def _check_reusable(samples: Samples | None, options: BuildOptions) -> None:
    # A model is calibrated more than once, whatever it is measured on.
    check_reusable(samples, replace(options, check_samples=None))


def mixed_with_progress(
    program: Program,
    samples: Samples | None,
    options: BuildOptions,
    metric: UserMetric | str,
    drop: Drop,
    tell: Progress,
) -> Mixed:
    """Quantize with the exceptions that a drop needs, and report progress; see `mix_precision`."""

    def quantize(wanted: AnnotateOptions) -> Quantized:
        changed = replace(options, quantize=replace(options.quantize, annotate=wanted))
        return quantized_with_progress(program, samples, changed, annotate(program, wanted), None, tell)

    def feeds(quantized: Quantized) -> Iterator[tuple[str, dict[str, Any]]]:
        return measured_on(samples, options, quantized.source)[0]

    described = measured_on(samples, options, program)[1]
    return mix_precision(quantize, options.quantize.annotate, feeds, described, metric, drop, tell)


def build_mixed(program: Program, samples: Samples | None, options: BuildOptions, tell: Progress) -> Mixed:
    """Quantize with the exceptions that a build's options ask for."""
    metric, drop = _metric(options.mixed.metric), Drop.of(options.mixed.max_drop or 0)
    return mixed_with_progress(program, samples, options, metric, drop, tell)


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
