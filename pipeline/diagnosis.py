"""What to look at where an int8 model isn't good enough, each question as one function."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pipeline.analysis.comparison import Comparison, compare_tensors
from pipeline.config.options import CompareOptions, StudyOptions
from pipeline.config.schema import keywords
from pipeline.ir.program import Program
from pipeline.report.plots import check_plot, plot_comparison
from pipeline.samples import Samples, feed_count, hold_back_filter, with_image_options
from pipeline.workflow import Progress, check_reusable, measured_on, quantize_model, with_recipe


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
    quantized = quantize_model(path, samples, options, tell)
    given = with_image_options(samples, options.quantize.images)
    stream, described = measured_on(given, options, quantized.source)
    chosen = itertools.islice(stream, options.measure)
    total = _count(given, options, quantized.source)
    tell("comparing", 0, total)
    result = compare_tensors(
        quantized, (feed for _, feed in chosen), described, options.below, lambda done: tell("comparing", done, total)
    )
    if options.plot is not None:
        plot_comparison(result, options.plot)
    return result


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
