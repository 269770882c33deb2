"""`pipeline build`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pipeline.cli.console import counting, messages, show
from pipeline.cli.options import json_option, parse_shapes, verify_option
from pipeline.errors import OptionError
from pipeline.quantization.annotate import AnnotateOptions, Annotation
from pipeline.quantization.annotation_rules import KINDS
from pipeline.quantization.calibrate import ALGORITHMS, CalibrateOptions, CalibrationTable
from pipeline.recipes import load_recipe, prepare
from pipeline.workflow import BuildRequest, build_model


@click.command(name="build")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, one sample each.")
@click.option("--target", "targets", multiple=True, default=["host"], help="May be repeated.  [default: host]")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=D,D,...", help="Shape of an input; may be repeated.")
@click.option("--algorithm", default="kl", show_default=True, help=f"One of {', '.join(sorted(ALGORITHMS))}.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Samples that count as one batch.")
@click.option("--batch-nums", type=int, help="How many batches to calibrate with  [default: all samples].")
@click.option("--symmetric", is_flag=True, help="Spread signed tensors' codes evenly around zero.")
@click.option("--per-tensor", is_flag=True, help="One weight scale per tensor instead of one per channel.")
@click.option("--operator", "operators", multiple=True, help=f"Only quantize these: {', '.join(KINDS)}.")
@click.option("--skip", multiple=True, help="Leave this operator, named by its output, in float; may be repeated.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Use this table instead of calibrating.")
@click.option("--annotation", type=click.Path(path_type=Path), help="Use these decisions instead of making them.")
@click.option("--check/--no-check", default=True, help="Measure how far int8 is from float  [default: yes].")
@verify_option
@click.option("--float", "float_library", is_flag=True, help="Build the float model for host, too.")
@click.option("--dump", type=click.Path(path_type=Path), help="Folder for each compiler phase's program and assembly.")
@click.option("--tune", type=click.Path(path_type=Path), help="Measure layers here; a file to keep the results in.")
@json_option
def command(
    model: str,
    samples: Path | None,
    targets: tuple[str, ...],
    output: Path,
    shapes: tuple[str, ...],
    algorithm: str,
    batch_size: int,
    batch_nums: int | None,
    symmetric: bool,
    per_tensor: bool,
    operators: tuple[str, ...],
    skip: tuple[str, ...],
    calibration: Path | None,
    annotation: Path | None,
    check: bool,
    verify_import: bool,
    float_library: bool,
    dump: Path | None,
    tune: Path | None,
    as_json: bool,
) -> None:
    """Quantize MODEL, an .onnx file or a recipe (.toml), and build it for each target."""
    request = BuildRequest(
        model=Path(model),
        output=output,
        targets=targets,
        samples=samples,
        shapes=parse_shapes(shapes),
        annotate=AnnotateOptions(operators or None, skip, per_channel=not per_tensor),
        calibrate=CalibrateOptions(algorithm, symmetric, batch_size, batch_nums),
        table=None if calibration is None else CalibrationTable.load(calibration),
        annotation=None if annotation is None else Annotation.load(annotation),
        check=check,
        float_library=float_library,
        dump=dump,
        tune=tune,
        verify_import=verify_import,
    )
    if model.endswith(".toml"):
        if samples is not None or shapes:
            raise OptionError("A recipe has its own samples and shapes; leave --samples and --shape out.")
        prepared = prepare(load_recipe(model))
        request = replace(request, model=prepared.model, samples=prepared.calibration, shapes=prepared.shapes)
    with counting("calibrating") as counted:
        report = build_model(request, messages.log if messages.is_terminal else lambda _: None, counted)
    show(report.to_dict(), report.tables, as_json)
