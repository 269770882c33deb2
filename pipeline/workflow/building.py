"""Builds libraries of a model for several targets, and reports on them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.api import Quantized, load
from pipeline.compiler.build import compile_program
from pipeline.compiler.tuning import TunedLayer, TuningDatabase, tune
from pipeline.config.options import BuildOptions
from pipeline.config.schema import keywords
from pipeline.errors import OptionError, QuantizationError
from pipeline.files import check_writable, make_folder
from pipeline.ir.program import Program
from pipeline.process_state import one_at_a_time
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.steps import watched_tensors
from pipeline.report.agreement import shortfalls
from pipeline.report.build_report import BuildReport, Library
from pipeline.samples import Samples, with_image_options
from pipeline.scale_out import engine_for
from pipeline.targets import Target, load_target
from pipeline.workflow.exception_times import timed
from pipeline.workflow.measuring import FLOAT_LIBRARY, check_measurable, compare_libraries, measured_on
from pipeline.workflow.mixing import build_mixed, check_mixable
from pipeline.workflow.progress import Progress
from pipeline.workflow.quantizing import (
    annotated,
    has_int8,
    load_given,
    quantized_with_progress,
    verify,
    warn_if_quantized,
    why_float,
    with_recipe,
)

_log = logging.getLogger(__name__)

GIVEN_TABLE = "given table"
"""What reports give as the algorithm if a calibration table was given."""


@keywords(BuildOptions)
def build(
    model: str | Path, samples: Samples | None = None, *, progress: Progress | None = None, **keys: Any
) -> BuildReport:
    """Import, quantize and build a model, and report on it: all that `pipeline build` does.

    Args:
        model: an ONNX file, or a recipe (.toml), which has its own samples and shapes.
        samples: 100 to 500 typical inputs; see `pipeline.quantize`. Not needed with `calibration`. They are read twice
            if `check` is set.
        progress: see `Progress`.
        **keys: {options}

    Raises:
        PipelineError: one of its subclasses; see `errors`. No incomplete file is left.
    """
    path, samples, chosen = with_recipe(model, samples, BuildOptions.from_values(keys))
    return build_model(path, samples, chosen, progress)


@one_at_a_time
def build_model(
    model: Path, samples: Samples | None, options: BuildOptions, progress: Progress | None = None
) -> BuildReport:
    """Import, quantize and build a model, and report on it; see `build`."""
    with engine_for(options.quantize.scale_out):
        return _build_model(model, samples, options, progress or (lambda *_: None))


def _build_model(model: Path, samples: Samples | None, options: BuildOptions, tell: Progress) -> BuildReport:
    samples = with_image_options(samples, options.quantize.images)
    options = check_mixable(samples, options)
    targets = {name: load_target(name) for name in options.targets}
    _check_file_names(targets)
    table, annotation = load_given(samples, options)
    check_measurable(samples, options)
    folder = make_folder(options.output)
    check_writable(folder / "library.so")
    times = options.mixed.operator_times
    # Times that are there are only read.
    written_later = (options.tune, options.quantize.calibrate.resume, None if times and times.exists() else times)
    for path in filter(None, written_later):
        check_writable(path)
    database = None if options.tune is None else TuningDatabase.load(options.tune)
    tell("importing", 0, None)
    program = load(model, options.shapes, samples, options.fixed, options.cut_at)
    held_back = samples is not None and options.quantize.calibrate.hold_back > 0
    if options.check and (held_back or options.check_samples is not None):
        # Samples that don't fit the model, or a share that holds none back, are refused here, before the long work.
        next(measured_on(samples, options, program)[0])
    warn_if_quantized(program)
    annotation = annotated(program, annotation, options)
    _check_int8(annotation, program, options)
    check = None
    if options.verify_import:
        tell("verifying the import", 0, None)
        check = verify(model, program, samples, watched_tensors(program, annotation, options.quantize))
    mixed = None
    if options.mixed.max_drop is not None:
        mixed = build_mixed(program, samples, options, tell)
        quantized = mixed.quantized
    else:
        quantized = quantized_with_progress(program, samples, options, annotation, table, tell)
    if has_int8(annotation):
        _check_int8(quantized.annotation, program, options)
    tuned: tuple[TunedLayer, ...] = ()
    if database is not None and options.tune is not None:
        database, tuned = _tune(quantized.program, targets, database, tell)
        database.save(options.tune)
    libraries = _build_libraries(quantized, targets, folder, options.dump, database, tell)
    report = replace(_save_and_report(quantized, folder, libraries, options), tuned=tuned, import_check=check)
    if mixed is not None:
        report = replace(report, mixed=timed(mixed, libraries, targets, database, tell))
    if options.float_library:
        tell("building the float model", 0, None)
        path = compile_program(quantized.source, load_target("host"), folder / f"{program.name}.float32.host.so")
        report = replace(report, files=report.files | {FLOAT_LIBRARY: str(path)})
    if options.check and (samples is not None or options.check_samples is not None):
        tell("comparing with float", 0, None)
        agreement = compare_libraries(quantized, report, targets, samples, options)
        report = replace(
            report,
            agreement=agreement,
            missed=shortfalls(agreement, options.min_sqnr, options.min_agreement),
        )
    return report


def _check_int8(annotation: Annotation, program: Program, options: BuildOptions) -> None:
    """Refuse a model none of whose operators is int8, unless the options allow it; `float_library` makes it a warning.

    Raises:
        QuantizationError: no operator is int8; the message says why.
    """
    message = why_float(annotation, program)
    if options.allow_float or not message:
        return
    if not options.float_library:
        raise QuantizationError(f"{message}To build it all the same, give --allow-float (allow_float=True).")
    _log.warning("%s", message.rstrip())


def _tune(
    program: Program, targets: Mapping[str, Target], database: TuningDatabase, progress: Progress
) -> tuple[TuningDatabase, tuple[TunedLayer, ...]]:
    """Measure the layers that the tuning database lacks, for all targets."""
    layers: list[TunedLayer] = []
    for name, target in targets.items():
        progress(f"tuning for {name}", 0, None)
        database, own = tune(program, target, database)
        layers += own
    return database, tuple(layers)


def _build_libraries(
    quantized: Quantized,
    targets: Mapping[str, Target],
    folder: Path,
    dump: Path | None,
    database: TuningDatabase | None,
    tell: Progress,
) -> tuple[Library, ...]:
    """Build a library for each target."""
    libraries = []
    for name, target in targets.items():
        tell(f"building for {name}", 0, None)
        path = folder / f"{quantized.program.name}.{_file_part(name, target)}.so"
        quantized.build(target, path, None if dump is None else dump / target.name, database)
        libraries.append(Library(name, target.name, str(path), path.stat().st_size))
    return tuple(libraries)


def _save_and_report(
    quantized: Quantized, folder: Path, libraries: tuple[Library, ...], options: BuildOptions
) -> BuildReport:
    """Write the calibration table and the annotation, and return the report without measurements."""
    name = quantized.program.name
    table, annotation = folder / f"{name}.calibration.json", folder / f"{name}.annotation.json"
    quantized.table.save(table)
    quantized.annotation.save(annotation)
    return BuildReport(
        model=name,
        algorithm=GIVEN_TABLE if options.calibration is not None else options.quantize.calibrate.algorithm,
        calibration_samples=quantized.table.samples,
        annotation=quantized.annotation,
        libraries=libraries,
        files={"calibration table": str(table), "annotation": str(annotation)},
        inputs=quantized.program.inputs,
        preprocessing=quantized.program.preprocessing,
        corrections=quantized.corrections,
    )


def _file_part(name: str, target: Target) -> str:
    """Return a target's part of file names: the name that the user gave, or for a target file, the name in it."""
    return target.name if name.endswith(".toml") or "/" in name else name


def _check_file_names(targets: Mapping[str, Target]) -> None:
    """Refuse targets whose libraries would have the same file name.

    Raises:
        OptionError: two targets have the same name.
    """
    known: dict[str, str] = {}
    for name, target in targets.items():
        other = known.setdefault(_file_part(name, target), name)
        if other != name:
            raise OptionError(
                f"Targets {other} and {name} have the same name, {_file_part(name, target)!r}, so that their libraries "
                "would be one file. Change the name that one of the files gives, or build them into two folders."
            )
