"""The whole pipeline as one function: from a model and samples to libraries and a report."""

from __future__ import annotations

import collections
import itertools
import logging
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.api import Quantized, load, quantize_with
from pipeline.compiler.build import compile_program
from pipeline.compiler.execute import Executor
from pipeline.compiler.tuning import TunedLayer, TuningDatabase, tune
from pipeline.config.options import BuildOptions, MeasuredOptions, ModelOptions
from pipeline.config.schema import keywords
from pipeline.cpu import missing_features
from pipeline.errors import OptionError, QuantizationError, SampleError
from pipeline.files import make_folder
from pipeline.importer.verify import ImportCheck, example_feeds, verify_import
from pipeline.ir.program import Program
from pipeline.library.link import check_writable
from pipeline.quantization.annotate import Annotation, annotate
from pipeline.quantization.calibrate import CalibrationTable
from pipeline.quantization.selection import with_names
from pipeline.quantization.steps import check_options
from pipeline.recipes import load_recipe, prepare
from pipeline.recipes.samples import LabelledSample
from pipeline.report.agreement import Agreement, compare, shortfalls, top1
from pipeline.report.build_report import Accuracy, BuildReport, Library, Timing
from pipeline.runtime.local import Runner
from pipeline.samples import Samples, feed_count, feeds, hold_back_filter, named_feeds, with_image_options
from pipeline.samples.reading import sample_count
from pipeline.targets import Target, load_target

_log = logging.getLogger(__name__)

AnyModelOptions = TypeVar("AnyModelOptions", bound=ModelOptions)

CHECK_SAMPLES = 16
"""On how many calibration samples int8 is compared with float, if nothing is required of the result."""

MAX_REASONS = 5
"""How many reasons a message gives for why no operator is int8."""

FLOAT_LIBRARY = "float32 library for host"
"""What reports call the float library, among `BuildReport.files`."""

GIVEN_TABLE = "given table"
"""What reports give as the algorithm if a calibration table was given."""

_QUANTIZED = re.compile("DynamicQuantize.*|(Dequantize|Quantize)Linear|QLinear.*|.*Integer")
"""ONNX types of nodes that only quantized models have."""

Progress = Callable[[str, int, "int | None"], Any]
"""A function that is called with what is being done, how many steps of that (such as batches) are done, and how many
steps there are, or None if that isn't known. `print` may be used.
"""


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


def with_recipe(
    model: str | Path, samples: Samples | None, options: AnyModelOptions
) -> tuple[Path, Samples | None, AnyModelOptions]:
    """Return model, samples and options; those of a recipe (.toml), if one is given as the model.

    Raises:
        OptionError: a recipe is given, and samples or shapes as well.
    """
    path = Path(model)
    if path.suffix != ".toml":
        return path, samples, options
    if samples is not None or options.shapes:
        raise OptionError("A recipe has its own samples and shapes; leave --samples and --shape out.")
    prepared = prepare(load_recipe(str(model)))
    return prepared.model, prepared.calibration, replace(options, shapes=prepared.shapes)


def quantize_model(
    model: Path, samples: Samples | None, options: ModelOptions, progress: Progress | None = None
) -> Quantized:
    """Import and quantize a model, as `build` does, and write nothing.

    Args:
        model: an ONNX file.
        samples: see `build`.
        options: how.
        progress: see `Progress`.

    Raises:
        PipelineError: see `errors`; a QuantizationError if nothing becomes int8.
    """
    tell = progress or (lambda *_: None)
    samples = with_image_options(samples, options.quantize.images)
    table, annotation = _given(samples, options)
    tell("importing", 0, None)
    program = load(model, options.shapes, samples)
    warn_if_quantized(program)
    annotation = _decided(program, annotation, options)
    _require_int8(annotation, program)
    if options.verify_import:
        tell("verifying the import", 0, None)
        verify(model, program, samples)
    quantized = _quantized(program, samples, options, annotation, table, tell)
    _require_int8(quantized.annotation, program)
    return quantized


def build_model(
    model: Path, samples: Samples | None, options: BuildOptions, progress: Progress | None = None
) -> BuildReport:
    """Import, quantize and build a model, and report on it; see `build`."""
    tell = progress or (lambda *_: None)
    samples = with_image_options(samples, options.quantize.images)
    targets = {name: load_target(name) for name in options.targets}
    _check_file_names(targets)
    table, annotation = _given(samples, options)
    _check_measurable(samples, options)
    folder = make_folder(options.output)
    check_writable(folder / "library.so")
    tell("importing", 0, None)
    program = load(model, options.shapes, samples)
    held_back = samples is not None and options.quantize.calibrate.hold_back > 0
    if options.check and (held_back or options.check_samples is not None):
        # Samples that don't fit the model, or a share that holds none back, are refused here, before the long work.
        next(measured_on(samples, options, program)[0])
    warn_if_quantized(program)
    annotation = _decided(program, annotation, options)
    _check_int8(annotation, program, options)
    check = None
    if options.verify_import:
        tell("verifying the import", 0, None)
        check = verify(model, program, samples)
    quantized = _quantized(program, samples, options, annotation, table, tell)
    if _holds_int8(annotation):
        _check_int8(quantized.annotation, program, options)
    database, tuned = _tuned(quantized.program, targets, options.tune, tell)
    libraries = _libraries(quantized, targets, folder, options.dump, database, tell)
    report = replace(_written(quantized, folder, libraries, options), tuned=tuned, import_check=check)
    if options.float_library:
        tell("building the float model", 0, None)
        path = compile_program(quantized.source, load_target("host"), folder / f"{program.name}.float32.host.so")
        report = replace(report, files=report.files | {FLOAT_LIBRARY: str(path)})
    if options.check and (samples is not None or options.check_samples is not None):
        tell("comparing with float", 0, None)
        agreement = _check(quantized, report, targets, samples, options)
        report = replace(
            report,
            agreement=agreement,
            missed=shortfalls(agreement, options.min_sqnr, options.min_agreement),
        )
    return report


def _given(samples: Samples | None, options: ModelOptions) -> tuple[CalibrationTable | None, Annotation | None]:
    """Return what is in the files that the options name, after the checks that need no model.

    Raises:
        OptionError: see `quantization.steps.check_options`.
        SampleError: neither samples nor a table is given, or there are no samples where they should be.
        TableError: a file is wrong.
    """
    check_options(options.quantize, options.calibration is not None, samples is not None)
    if options.calibration is None and samples is None:
        raise SampleError("Neither samples nor a calibration table is given. Add --samples or --calibration.")
    if samples is not None:
        # A missing folder is reported before a large model is imported.
        sample_count(samples)
    table = None if options.calibration is None else CalibrationTable.load(options.calibration)
    return table, None if options.annotation is None else Annotation.load(options.annotation)


def _check_measurable(samples: Samples | None, options: BuildOptions) -> None:
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


def _libraries(
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


def _decided(program: Program, annotation: Annotation | None, options: ModelOptions) -> Annotation:
    """Return what becomes int8: what the annotation file says, if there is one, else what annotate decides.

    Raises:
        OptionError: an option names an operator that the program doesn't have.
        TableError: the annotation file does.
    """
    wanted = options.quantize.annotate
    return annotate(program, wanted) if annotation is None else with_names(annotation, program)


def _quantized(
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


def _check_int8(annotation: Annotation, program: Program, options: BuildOptions) -> None:
    """Refuse a model none of whose operators is int8, unless the options allow it; `float_library` makes it a warning.

    Raises:
        QuantizationError: no operator is int8; the message says why.
    """
    message = _why_float(annotation, program)
    if options.allow_float or not message:
        return
    if not options.float_library:
        raise QuantizationError(f"{message}To build it all the same, give --allow-float (allow_float=True).")
    _log.warning("%s", message.rstrip())


def _require_int8(annotation: Annotation, program: Program) -> None:
    """Refuse a model none of whose operators is int8.

    Raises:
        QuantizationError: no operator is int8; the message says why.
    """
    if message := _why_float(annotation, program):
        raise QuantizationError(message.rstrip())


def _why_float(annotation: Annotation, program: Program) -> str:
    """Return the lines of a message that say why no operator is int8; "" if one is."""
    if _holds_int8(annotation):
        return ""
    reasons = collections.Counter(f"{o.operator}: {o.reason}" for o in annotation.operators).most_common(MAX_REASONS)
    listed = "".join(f"\n  {count} x {reason}" for reason, count in reasons)
    return (
        f"{annotation.summary()}, so int8 would gain nothing. The reasons, most frequent first:{listed}\n"
        f"{quantized_already(program)}"
    )


def _holds_int8(annotation: Annotation) -> bool:
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


def verify(model: Path, program: Program, samples: Samples | None = None) -> ImportCheck:
    """Compare an imported program with an independent evaluation of its ONNX file; see `importer.verify`.

    Args:
        model: the ONNX file.
        program: the program that it was imported as.
        samples: both are evaluated on the first sample; without samples, or if they can be read only once, on a
            generated one.

    Raises:
        ModelError: the results differ.
    """
    reusable = samples is not None and not isinstance(samples, Iterator)
    given = next(feeds(samples, program.inputs)) if samples is not None and reusable else example_feeds(program.inputs)
    return verify_import(model, program, lambda float_program: Executor(float_program).run, given)


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


def _tuned(
    program: Program, targets: Mapping[str, Target], path: Path | None, progress: Progress
) -> tuple[TuningDatabase | None, tuple[TunedLayer, ...]]:
    """Measure the layers that the tuning database doesn't have, for all targets, and write the database."""
    if path is None:
        return None, ()
    database = TuningDatabase.load(path)
    layers: list[TunedLayer] = []
    for name, target in targets.items():
        progress(f"tuning for {name}", 0, None)
        database, own = tune(program, target, database)
        layers += own
    database.save(path)
    return database, tuple(layers)


def _written(quantized: Quantized, folder: Path, libraries: tuple[Library, ...], options: BuildOptions) -> BuildReport:
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


def _check(
    quantized: Quantized,
    report: BuildReport,
    targets: Mapping[str, Target],
    samples: Samples | None,
    options: BuildOptions,
) -> Agreement:
    """Compare int8 and float on samples. If this machine can run one of the built libraries, that is used for int8."""
    runnable = [
        library.path
        for library in report.libraries
        if not missing_features(targets[library.target].architecture, targets[library.target].required_features)
    ]
    int8 = Runner(runnable[0]).run if runnable else Executor(quantized.program).run
    # If nothing is required of the result, a few calibration samples are enough.
    limit = CHECK_SAMPLES if options.min_sqnr is None and options.min_agreement is None else None
    stream, described = measured_on(samples, options, quantized.program, limit)
    return compare(Executor(quantized.source).run, int8, (feed for _, feed in stream), described)


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
