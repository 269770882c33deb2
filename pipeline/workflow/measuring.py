"""Measures int8 models against float ones: agreement, accuracy and time."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.api import Quantized
from pipeline.config.options import BuildOptions, MeasuredOptions
from pipeline.cpu import missing_features
from pipeline.errors import OptionError
from pipeline.ir.program import Program
from pipeline.recipes.samples import LabelledSample
from pipeline.report.agreement import Agreement, OutputsCompared, agreement_of, compare, top1
from pipeline.report.build_report import Accuracy, BuildReport, Library, Timing
from pipeline.runtime.local import Runner
from pipeline.samples import Samples, hold_back_filter, named_feeds, with_image_options
from pipeline.scale_out import engine_for
from pipeline.targets import Target

CHECK_SAMPLES = 16
"""On how many calibration samples int8 is compared with float, if nothing is required of the result."""

FLOAT_LIBRARY = "float32 library for host"
"""What reports call the float library, among `BuildReport.files`."""


def check_measurable(samples: Samples | None, options: BuildOptions) -> None:
    """Refuse requirements that couldn't be checked at the end.

    Raises:
        OptionError: there are no samples to measure on, or they can be read only once.
    """
    limited = options.min_sqnr is not None or options.min_agreement is not None
    if limited and not options.check:
        raise OptionError("--min-sqnr and --min-agreement need the check; leave --no-check out.")
    if limited and samples is None and options.check_samples is None:
        raise OptionError("--min-sqnr and --min-agreement need samples to measure on: --samples or --check-samples.")
    if options.check:
        check_reusable(samples, options, ", or check=False")


def check_reusable(samples: Samples | None, options: MeasuredOptions, otherwise: str = "") -> None:
    """Refuse samples that can be read only once, if they are needed both for calibration and for measuring.

    Args:
        samples: the samples.
        options: say whether other samples are measured on.
        otherwise: what else the user can do, as the end of a sentence, with a comma in front.

    Raises:
        OptionError: the samples are an iterator, and are needed twice.
    """
    if options.check_samples is None and isinstance(samples, Iterator):
        raise OptionError(
            "The samples are an iterator, which can be read only once, and they are needed twice. Give a function that "
            f"returns one (a generator function, not called){otherwise}."
        )


def measured_on(
    samples: Samples | None, options: MeasuredOptions, program: Program, limit: int | None = None
) -> tuple[Iterator[tuple[str, dict[str, Any]]], str]:
    """Return the (name, feed) pairs that an int8 model is measured on, and what they are, in words.

    Args:
        samples: the samples that calibration uses.
        options: say which samples to measure on; see `BuildOptions.check`.
        program: the model.
        limit: how many samples to use, if they are calibration samples; None means all.
    """
    if options.check_samples is not None:
        chosen = with_image_options(options.check_samples, options.quantize.images)
        return named_feeds(chosen or (), program.inputs, warn=True), f"samples of {options.check_samples}"
    given = samples if samples is not None else ()
    calibration = options.quantize.calibrate
    if calibration.hold_back:
        held_back = named_feeds(given, program.inputs, part=hold_back_filter(calibration.hold_back, held_back=True))
        return held_back, "samples that were held back"
    described = "of the calibration samples" if options.calibration is None else "of the samples"
    stream = named_feeds(given, program.inputs, calibration.batch_size, calibration.batch_nums)
    return itertools.islice(stream, limit), described


def compare_libraries(
    quantized: Quantized,
    report: BuildReport,
    targets: Mapping[str, Target],
    samples: Samples | None,
    options: BuildOptions,
) -> Agreement:
    """Return the agreement of the int8 model with the float one.

    The int8 model is a library that was built, if this machine can run one; otherwise it is compiled in memory.

    Args:
        quantized: the model.
        report: the report of its build.
        targets: the targets that it was built for, by name.
        samples: the calibration samples.
        options: the options of the build.
    """
    library = runnable_library(report.libraries, targets)
    int8 = quantized.program if library is None else Path(library.path)
    # If nothing is required of the result, a few calibration samples are enough.
    limit = CHECK_SAMPLES if options.min_sqnr is None and options.min_agreement is None else None
    stream, described = measured_on(samples, options, quantized.program, limit)
    with engine_for(options.quantize.scale_out) as engine:
        return agreement_of(
            engine.map(OutputsCompared(), [quantized.source, int8], (feed for _, feed in stream)), described
        )


def runnable_library(libraries: Iterable[Library], targets: Mapping[str, Target]) -> Library | None:
    """Return the first library that this machine can run; None if there is none.

    Args:
        libraries: what was built.
        targets: the targets that it was built for, by name.
    """
    for library in libraries:
        target = targets[library.target]
        if not missing_features(target.architecture, target.required_features):
            return library
    return None


def measure(report: BuildReport, evaluation: Callable[[], Iterable[LabelledSample]]) -> BuildReport:
    """Return a report with accuracy, agreement and latency of the float and int8 libraries for this machine.

    Args:
        report: report of a build for `host` with the float library.
        evaluation: returns a new iterable of evaluation samples each time it is called.
    """
    float_path = Path(report.files[FLOAT_LIBRARY])
    int8_path = Path(next(library.path for library in report.libraries if library.target == "host"))
    float_run, int8_run = Runner(float_path).run, Runner(int8_path).run
    samples = [s for s in evaluation() if s.label is not None]
    accuracy = None
    if samples:
        right = [sum(top1(run(s.feeds)) == s.label for s in samples) for run in (float_run, int8_run)]
        accuracy = Accuracy(len(samples), *(count / len(samples) for count in right))
    agreement = compare(float_run, int8_run, (s.feeds for s in evaluation()), "evaluation samples")
    timing = time_libraries(float_path, int8_path, next(iter(evaluation())).feeds)
    return replace(report, accuracy=accuracy, agreement=agreement, timing=timing)


def time_libraries(float_library: Path, int8_library: Path, inputs: Mapping[str, Any], threads: int = 1) -> Timing:
    """Time a float and an int8 library in turn, so that a change of the machine's speed affects both.

    Args:
        float_library: a library for this machine.
        int8_library: a library for this machine.
        inputs: one batch, by input name.
        threads: how many threads a run may use.
    """
    runners = Runner(float_library, threads), Runner(int8_library, threads)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(20):
        for runner, seconds in zip(runners, times, strict=True):
            seconds.extend(runner.benchmark(inputs, repeats=3, warmup=1))
    float_ms, int8_ms = (statistics.median(t) * 1e3 for t in times)
    return Timing(float_ms, int8_ms, threads)
