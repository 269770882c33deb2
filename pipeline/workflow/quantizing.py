"""Imports and quantizes models as the command line does: with the files that options name, checks and progress."""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.api import Quantized, load, quantize_with
from pipeline.compiler.execute import shared_executor
from pipeline.config.options import ModelOptions
from pipeline.errors import OptionError, QuantizationError, SampleError
from pipeline.importer.verify import ImportCheck, example_feeds, verify_import
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotate import Annotation, annotate
from pipeline.quantization.calibrate import CalibrationTable
from pipeline.quantization.selection import with_names
from pipeline.quantization.steps import check_options, watched_tensors
from pipeline.quantization.wide_channels import without_parts
from pipeline.recipes import load_recipe, prepare
from pipeline.samples import Samples, feed_count, feeds, hold_back_filter, with_image_options
from pipeline.samples.reading import sample_count
from pipeline.workflow.progress import Progress

_log = logging.getLogger(__name__)

AnyModelOptions = TypeVar("AnyModelOptions", bound=ModelOptions)

MAX_REASONS = 5
"""How many reasons a message gives for why no operator is int8."""

_QUANTIZED = re.compile("DynamicQuantize.*|(Dequantize|Quantize)Linear|QLinear.*|.*Integer")
"""ONNX types of nodes that only quantized models have."""


def with_recipe(
    model: str | Path, samples: Samples | None, options: AnyModelOptions
) -> tuple[Path, Samples | None, AnyModelOptions]:
    """Return a model's path, samples and options; if the model is a recipe, those of the recipe.

    Args:
        model: an ONNX file, or a recipe (.toml).
        samples: the samples that were given.
        options: the options that were given.

    Raises:
        OptionError: the model is a recipe, and samples or shapes are given, too.
    """
    path = Path(model)
    if path.suffix != ".toml":
        return path, samples, options
    if samples is not None or options.shapes:
        raise OptionError("A recipe has its own samples and shapes; leave --samples and --shape out.")
    prepared = prepare(load_recipe(str(model)))
    return prepared.model, prepared.calibration, replace(options, shapes=prepared.shapes)


@one_at_a_time
def quantize_model(
    model: Path, samples: Samples | None, options: ModelOptions, progress: Progress | None = None
) -> Quantized:
    """Import and quantize a model as `build` does, without writing any file.

    Args:
        model: an ONNX file.
        samples: see `build`.
        options: the options.
        progress: see `Progress`.

    Raises:
        PipelineError: one of its subclasses, see `errors`; a QuantizationError if no operator becomes int8.
    """
    tell = progress or (lambda *_: None)
    samples = with_image_options(samples, options.quantize.images)
    table, annotation = load_given(samples, options)
    tell("importing", 0, None)
    program = load(model, options.shapes, samples, options.fixed, options.cut_at)
    warn_if_quantized(program)
    annotation = annotated(program, annotation, options)
    _require_int8(annotation, program)
    if options.verify_import:
        tell("verifying the import", 0, None)
        verify(model, program, samples, watched_tensors(program, annotation, options.quantize))
    quantized = quantized_with_progress(program, samples, options, annotation, table, tell)
    _require_int8(quantized.annotation, program)
    return quantized


def load_given(samples: Samples | None, options: ModelOptions) -> tuple[CalibrationTable | None, Annotation | None]:
    """Return the calibration table and the annotation that the options name, None for one that isn't given.

    Options and samples are checked first, as far as that is possible without the model.

    Raises:
        OptionError: see `quantization.steps.check_options`.
        SampleError: neither samples nor a table is given, or the samples don't exist.
        TableError: a file is invalid.
    """
    check_options(options.quantize, options.calibration is not None, samples is not None)
    if options.calibration is None and samples is None:
        raise SampleError("Neither samples nor a calibration table is given. Add --samples or --calibration.")
    if samples is not None:
        # A missing folder is reported before a large model is imported.
        sample_count(samples)
    table = None if options.calibration is None else CalibrationTable.load(options.calibration)
    return table, None if options.annotation is None else Annotation.load(options.annotation)


def annotated(program: Program, annotation: Annotation | None, options: ModelOptions) -> Annotation:
    """Return what becomes int8: what the annotation file says, if there is one, else what annotate decides.

    Raises:
        OptionError: an option names an operator that the program doesn't have.
        TableError: the annotation file does.
    """
    wanted = options.quantize.annotate
    return annotate(program, wanted) if annotation is None else with_names(without_parts(annotation), program)


def quantized_with_progress(
    program: Program,
    samples: Samples | None,
    options: ModelOptions,
    annotation: Annotation,
    table: CalibrationTable | None,
    tell: Progress,
) -> Quantized:
    """Quantize, and report progress; see `quantize_with`."""
    calibration = options.quantize.calibrate
    total = None
    if table is None and samples is not None:
        total = feed_count(samples, program.inputs, calibration.batch_size, calibration.batch_nums)
        part = hold_back_filter(calibration.hold_back)
        total = total if total is None or part is None else sum(map(part, range(total)))
    tell("calibrating", 0, total)
    return quantize_with(
        program, samples, options.quantize, annotation, table, lambda done: tell("calibrating", done, total)
    )


def _require_int8(annotation: Annotation, program: Program) -> None:
    """Refuse a model none of whose operators is int8.

    Raises:
        QuantizationError: no operator is int8; the message says why.
    """
    if message := why_float(annotation, program):
        raise QuantizationError(message.rstrip())


def why_float(annotation: Annotation, program: Program) -> str:
    """Return the lines of a message that say why no operator is int8; "" if one is."""
    if has_int8(annotation):
        return ""
    reasons = collections.Counter(f"{o.operator}: {o.reason}" for o in annotation.operators).most_common(MAX_REASONS)
    listed = "".join(f"\n  {count} x {reason}" for reason, count in reasons)
    return (
        f"{annotation.summary()}, so int8 would gain nothing. The reasons, most frequent first:{listed}\n"
        f"{quantized_already(program)}"
    )


def has_int8(annotation: Annotation) -> bool:
    """Return whether any operator is int8."""
    return any(o.precision == "int8" for o in annotation.operators)


def quantized_already(program: Program) -> str:
    """Return a line that warns of a model which is quantized already; "" if it isn't."""
    found = collections.Counter(n.operator for n in program.nodes if _QUANTIZED.fullmatch(n.operator))
    if not found:
        return ""
    listed = ", ".join(f"{count} x {operator}" for operator, count in sorted(found.items()))
    return (
        f"The model is quantized already ({listed}), and its rounding errors remain. Use the float model that it was "
        "made from, if there is one.\n"
    )


def warn_if_quantized(program: Program) -> None:
    """Warn of a model that is quantized already."""
    if already := quantized_already(program):
        _log.warning(already.rstrip())


def verify(model: Path, program: Program, samples: Samples | None = None, tensors: Sequence[str] = ()) -> ImportCheck:
    """Compare an imported program with an independent evaluation of its ONNX file; see `importer.verify`.

    Args:
        model: the ONNX file.
        program: the program that it was imported as.
        samples: both are evaluated on the first sample; without samples, or if they can be read only once, on a
            generated one.
        tensors: of the program that will be asked for next, so that it is compiled for all of that at once.

    Raises:
        ModelError: the results differ.
    """
    reusable = samples is not None and not isinstance(samples, Iterator)
    given = next(feeds(samples, program.inputs)) if samples is not None and reusable else example_feeds(program.inputs)
    return verify_import(model, program, lambda p: shared_executor(p, tensors if p is program else ()).run, given)
