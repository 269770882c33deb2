"""The main job as one function: a model and samples in, libraries and a report out."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.api import Quantized, load, quantize
from pipeline.compiler.build import compile_program
from pipeline.compiler.execute import Executor
from pipeline.compiler.tuning import TunedLayer, TuningDatabase, tune
from pipeline.cpu import missing_features
from pipeline.errors import OptionError, SampleError
from pipeline.importer.verify import ImportCheck, example_feeds, verify_import
from pipeline.ir.program import Program
from pipeline.library.link import check_writable
from pipeline.quantization.annotate import AnnotateOptions, Annotation
from pipeline.quantization.calibrate import CalibrateOptions, CalibrationTable
from pipeline.recipes.samples import Labelled
from pipeline.report.agreement import Agreement, compare, top1
from pipeline.report.build_report import Accuracy, BuildReport, Library, Timing
from pipeline.runtime.runner import Runner
from pipeline.samples import Samples, feeds
from pipeline.targets import Target, load_target

CHECK_SAMPLES = 16
"""How many samples the agreement with the float model is measured on."""

FLOAT_LIBRARY = "float32 library for host"
"""What the report calls the float library."""

Progress = Callable[[str], Any]


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        model: the ONNX file.
        output: folder for everything that is written; made if it doesn't exist.
        targets: names or paths of targets.
        samples: see `samples`; not needed with `table`. They are read twice if `check` is set.
        shapes: input shapes that the model leaves open.
        annotate: which operators to quantize.
        calibrate: how thresholds are chosen.
        table: a calibration table to use as it is.
        annotation: decisions to use as they are.
        check: whether to measure how far int8 is from float, on the samples.
        float_library: whether to build the float model for this machine, too.
        dump: folder for the program after each compiler phase.
        verify_import: whether to compare the float program with an independent evaluation of the ONNX file.
        tune: file of a tuning database; the layers that it doesn't know are measured on this machine first.
    """

    model: Path
    output: Path
    targets: Sequence[str]
    samples: Samples | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    annotate: AnnotateOptions = field(default_factory=AnnotateOptions)
    calibrate: CalibrateOptions = field(default_factory=CalibrateOptions)
    table: CalibrationTable | None = None
    annotation: Annotation | None = None
    check: bool = True
    float_library: bool = False
    dump: Path | None = None
    tune: Path | None = None
    verify_import: bool = True


def build_model(request: BuildRequest, progress: Progress, batches: Callable[[int], None] | None = None) -> BuildReport:
    """Import, quantize and build a model, and report on it.

    Args:
        request: what to build.
        progress: called with what is being done.
        batches: called with the number of calibration batches done.

    Raises:
        PipelineError: see `errors`; nothing half-written is left.
    """
    targets = {name: load_target(name) for name in request.targets}
    _check_file_names(targets)
    if request.table is None and request.samples is None:
        raise SampleError("Neither samples nor a calibration table is given. Add --samples or --calibration.")
    folder = _make_folder(request.output)
    progress("importing")
    program = load(request.model, request.shapes)
    check = None
    if request.verify_import:
        progress("verifying the import")
        check = verify(request.model, program, request.samples)
    progress("calibrating")
    calibration = request.calibrate
    quantized = quantize(
        program,
        request.samples,
        algorithm=calibration.algorithm,
        batch_size=calibration.batch_size,
        batch_nums=calibration.batch_nums,
        symmetric=calibration.symmetric,
        options=request.annotate,
        annotation=request.annotation,
        table=request.table,
        progress=batches,
    )
    database, tuned = _tuned(quantized.program, targets, request.tune, progress)
    libraries = []
    for name, target in targets.items():
        progress(f"building for {name}")
        path = folder / f"{program.name}.{_file_part(name, target)}.so"
        quantized.build(target, path, None if request.dump is None else request.dump / target.name, database)
        libraries.append(Library(name, target.name, str(path), path.stat().st_size))
    report = replace(_written(quantized, folder, tuple(libraries), request), tuned=tuned, import_check=check)
    if request.float_library:
        progress("building the float model")
        path = compile_program(program, load_target("host"), folder / f"{program.name}.float32.host.so")
        report = replace(report, files=report.files | {FLOAT_LIBRARY: str(path)})
    if request.check and request.samples is not None:
        progress("comparing with float")
        report = replace(report, agreement=_check(quantized, report, targets, request))
    return report


def verify(model: Path, program: Program, samples: Samples | None = None) -> ImportCheck:
    """Compare an imported program with an independent evaluation of its ONNX file; see `importer.verify`.

    Args:
        model: the ONNX file.
        program: what it was imported as.
        samples: the first one is compared; without any, or where they can be read only once, an invented one.

    Raises:
        ModelError: the two differ.
    """
    reusable = samples is not None and not isinstance(samples, Iterator)
    given = next(feeds(samples, program.inputs)) if samples is not None and reusable else example_feeds(program.inputs)
    return verify_import(model, program, lambda float_program: Executor(float_program).run, given)


def measure(report: BuildReport, evaluation: Callable[[], Iterable[Labelled]]) -> BuildReport:
    """Return a report with accuracy, agreement and latency of the float and int8 libraries for this machine.

    Args:
        report: of a build for `host` with the float library.
        evaluation: yields evaluation samples anew each time it is called.
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
    """Time a float and an int8 library in turn, so that a change of the machine's speed meets both.

    Args:
        float_library: for this machine.
        int8_library: for this machine.
        inputs: one batch.
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
    """Measure what a database doesn't know, for all targets, and write it."""
    if path is None:
        return None, ()
    database = TuningDatabase.load(path)
    layers: list[TunedLayer] = []
    for name, target in targets.items():
        progress(f"tuning for {name}")
        database, own = tune(program, target, database)
        layers += own
    database.save(path)
    return database, tuple(layers)


def _written(quantized: Quantized, folder: Path, libraries: tuple[Library, ...], request: BuildRequest) -> BuildReport:
    """Write the table and the annotation, and return the report so far."""
    name = quantized.program.name
    table, annotation = folder / f"{name}.calibration.json", folder / f"{name}.annotation.json"
    quantized.table.save(table)
    quantized.annotation.save(annotation)
    return BuildReport(
        model=name,
        algorithm="given table" if request.table is not None else request.calibrate.algorithm,
        calibration_samples=quantized.table.samples,
        annotation=quantized.annotation,
        libraries=libraries,
        files={"calibration table": str(table), "annotation": str(annotation)},
    )


def _check(
    quantized: Quantized, report: BuildReport, targets: Mapping[str, Target], request: BuildRequest
) -> Agreement:
    """Compare int8 and float on the first samples; with a library that was just built, if one runs here."""
    runnable = [
        library.path
        for library in report.libraries
        if not missing_features(targets[library.target].architecture, targets[library.target].required_features)
    ]
    int8 = Runner(runnable[0]).run if runnable else Executor(quantized.program).run
    stream = feeds(request.samples if request.samples is not None else (), quantized.program.inputs)
    described = "of the calibration samples" if request.table is None else "of the samples"
    return compare(Executor(quantized.source).run, int8, itertools.islice(stream, CHECK_SAMPLES), described)


def _file_part(name: str, target: Target) -> str:
    """Return how a target is called in a file name: as the user named it, or, for a file, by its own name."""
    return target.name if name.endswith(".toml") or "/" in name else name


def _check_file_names(targets: Mapping[str, Target]) -> None:
    """Refuse targets whose libraries would be one file.

    Raises:
        OptionError: there are such.
    """
    known: dict[str, str] = {}
    for name, target in targets.items():
        other = known.setdefault(_file_part(name, target), name)
        if other != name:
            raise OptionError(
                f"Targets {other} and {name} have the same name, {_file_part(name, target)!r}, so that their libraries "
                "would be one file. Change the name that one of the files gives, or build them into two folders."
            )


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"The output folder {path} can't be made: {error.strerror}.") from error
    check_writable(path / "library.so")
    return path
