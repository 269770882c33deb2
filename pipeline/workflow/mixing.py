"""Builds with `--max-drop`: what is checked before the search, and on which samples it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.analysis.candidates import Times, estimated_times
from pipeline.analysis.metrics import BUILT_IN, Drop, MeasuredSample, UserMetric, load_metric
from pipeline.analysis.mixed_precision import Mixed, mix_precision
from pipeline.api import Quantized
from pipeline.config.options import BuildOptions, MixedPrecisionOptions, QuantizeOptions
from pipeline.config.schema import keywords, options_of
from pipeline.distances import Array
from pipeline.errors import OptionError
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotate import AnnotateOptions, annotate
from pipeline.quantization.steps import check_options
from pipeline.samples import Samples, with_image_options
from pipeline.scale_out import engine_for
from pipeline.targets import load_target
from pipeline.workflow.exception_times import measured_times, read_times
from pipeline.workflow.measuring import check_reusable, measured_on
from pipeline.workflow.progress import Progress
from pipeline.workflow.quantizing import quantized_with_progress

HELD_BACK = 0.2
"""Share of the samples that `max_drop` is measured on where no option says so."""


@one_at_a_time
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
        OptionError: an option doesn't go with `max_drop`, samples can be read only once, or a file of times is damaged.
        MetricError: the user's metric can't be loaded.
    """
    mixed = options.mixed
    if mixed.max_drop is None:
        given = [o for o in options_of(MixedPrecisionOptions) if getattr(mixed, o.key) != o.default]
        if given:
            raise OptionError(f"{given[0].flag} is about what --max-drop searches for; give that, too.")
        return options
    Drop.of(mixed.max_drop)
    given_files = {
        "--annotation": options.annotation,
        "--calibration": options.calibration,
        "--resume": options.quantize.calibrate.resume,
    }
    for name, value in given_files.items():
        if value is not None:
            raise OptionError(f"--max-drop decides what is int8, and calibrates for it; leave {name} out.")
    _metric(mixed.metric)
    if mixed.operator_times is not None and mixed.operator_times.exists():
        read_times(mixed.operator_times)
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
    file, targets = options.mixed.operator_times, [load_target(name) for name in options.targets]

    def times(quantized: Quantized) -> Times:
        return estimated_times(quantized.source) if file is None else measured_times(quantized, file, targets, tell)

    with engine_for(options.quantize.scale_out):
        return mix_precision(quantize, options.quantize.annotate, feeds, described, metric, drop, tell, times)


def build_mixed(program: Program, samples: Samples | None, options: BuildOptions, tell: Progress) -> Mixed:
    """Quantize with the exceptions that a build's options ask for."""
    metric, drop = _metric(options.mixed.metric), Drop.of(options.mixed.max_drop or 0)
    return mixed_with_progress(program, samples, options, metric, drop, tell)
