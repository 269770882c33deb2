"""What to look at where an int8 model isn't good enough, each question as one function."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.analysis.comparison import Comparison, compare_tensors
from pipeline.analysis.metrics import BUILT_IN, UserMetric, load_metric, ranking_of
from pipeline.analysis.sensitivity import Sensitivity, measure_sensitivity, read_state, value_of
from pipeline.api import quantize_with
from pipeline.config.options import CompareOptions, QuantizeOptions, SensitivityOptions, StudyOptions
from pipeline.config.schema import keywords
from pipeline.errors import OptionError
from pipeline.files import check_writable
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.report.plots import check_plot, plot_comparison, plot_sensitivity
from pipeline.samples import Samples, feed_count, hold_back_filter, with_image_options
from pipeline.scale_out import Engine, engine_for
from pipeline.workflow import Progress, check_reusable, measured_on, quantize_model, with_recipe


@one_at_a_time
@keywords(CompareOptions)
def compare(
    model: str | Path, samples: Samples | None = None, *, progress: Progress | None = None, **keys: Any
) -> Comparison:
    """Quantize a model and compare its tensors, one by one, with the float model's: all that `pipeline compare` does.

    Args:
        model: an ONNX file, or a recipe (.toml), which has its own samples and shapes.
        samples: see `pipeline.build`. They are read twice, unless there are others to measure on.
        progress: see `workflow.Progress`.
        **keys: {options}

    Raises:
        PipelineError: see `errors`.
    """
    tell = progress or (lambda *_: None)
    path, samples, options = with_recipe(model, samples, CompareOptions.from_values(keys))
    if options.plot is not None:
        check_plot(options.plot)
    check_reusable(samples, options)
    with engine_for(options.quantize.scale_out) as engine:
        quantized = quantize_model(path, samples, options, tell)
        given = with_image_options(samples, options.quantize.images)
        stream, described = measured_on(given, options, quantized.source)
        feeds = (feed for _, feed in itertools.islice(stream, options.measure))
        total = _count(given, options, quantized.source)
        tell("comparing", 0, total)
        result = compare_tensors(
            quantized, feeds, described, options.below, lambda done: tell("comparing", done, total), engine
        )
    if options.plot is not None:
        plot_comparison(result, options.plot)
    return result


@one_at_a_time
@keywords(SensitivityOptions)
def sensitivity(
    model: str | Path, samples: Samples | None = None, *, progress: Progress | None = None, **keys: Any
) -> Sensitivity:
    """Rank tensors and layers by what quantizing each alone costs: all that `pipeline sensitivity` does.

    What is suggested is tried, if there are samples to calibrate with.

    Args:
        model: an ONNX file, or a recipe (.toml), which has its own samples and shapes.
        samples: see `pipeline.build`. They are read several times.
        progress: see `workflow.Progress`.
        **keys: {options}

    Raises:
        PipelineError: see `errors`; a MetricError if the user's metric fails.
    """
    tell = progress or (lambda *_: None)
    path, samples, options = with_recipe(model, samples, SensitivityOptions.from_values(keys))
    if options.annotation is not None:
        raise OptionError("A ranking ends with what to leave in float by --skip, which an annotation file overrides.")
    if options.plot is not None:
        check_plot(options.plot)
    if options.state is not None:
        check_writable(options.state)
        if options.state.exists():
            read_state(options.state)
    check_reusable(samples, options)
    metric = options.metric if options.metric in BUILT_IN else load_metric(options.metric)
    with engine_for(options.quantize.scale_out) as engine:
        result = _sensitivity(path, samples, options, metric, tell, engine)
    if options.plot is not None:
        plot_sensitivity(result, options.plot)
    return result


def _sensitivity(
    path: Path,
    samples: Samples | None,
    options: SensitivityOptions,
    metric: UserMetric | str,
    tell: Progress,
    engine: Engine,
) -> Sensitivity:
    quantized = quantize_model(path, samples, options, tell)
    given = with_image_options(samples, options.quantize.images)
    described = measured_on(given, options, quantized.source)[1]
    count = _count(given, options, quantized.source)

    def stream() -> Iterator[tuple[str, dict[str, Any]]]:
        return itertools.islice(measured_on(given, options, quantized.source)[0], options.measure)

    def said(done: int, each: int) -> None:
        tell("measuring parts alone", done, None if count is None else count * each)

    tell("preparing to measure", 0, None)
    result = measure_sensitivity(quantized, stream(), described, metric, options.state, said, engine)
    if result.suggestion.keep_float and given is not None and options.calibration is None:
        tell("trying the suggestion", 0, None)
        other = quantize_with(quantized.source, given, _keeping_float(options.quantize, result.suggestion.keep_float))
        before, after = (value_of(q, stream(), metric, engine) for q in (quantized, other))
        helps = ranking_of(metric).better(after, before)
        result = replace(result, suggestion=replace(result.suggestion, before=before, after=after, helps=helps))
    return result


def _keeping_float(options: QuantizeOptions, names: Sequence[str]) -> QuantizeOptions:
    """Return options that leave more operators in float, and begin anew."""
    annotate = replace(options.annotate, skip=(*options.annotate.skip, *names))
    return replace(options, annotate=annotate, calibrate=replace(options.calibrate, resume=None))


def _count(samples: Samples | None, options: StudyOptions, program: Program) -> int | None:
    """Return on how many samples will be measured; None where that can't be told before."""
    calibration = options.quantize.calibrate
    if options.check_samples is not None:
        count = feed_count(with_image_options(options.check_samples, options.quantize.images) or (), program.inputs)
    else:
        count = feed_count(samples or (), program.inputs, calibration.batch_size, calibration.batch_nums)
        part = hold_back_filter(calibration.hold_back, held_back=True)
        count = count if count is None or part is None else sum(map(part, range(count)))
    return None if count is None else min(count, options.measure)
