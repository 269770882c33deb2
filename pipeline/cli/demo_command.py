"""`pipeline demo`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.console import counting, messages, show, working
from pipeline.cli.options import json_option
from pipeline.quantization.calibrate import CalibrateOptions
from pipeline.recipes import load_recipe, prepare
from pipeline.workflow import BuildRequest, build_model, measure


@click.command(name="demo")
@click.option("--model", default="digits", show_default=True, help="A recipe, see `pipeline models`.")
@click.option("--target", "targets", multiple=True, default=["host", "android-arm64"], help="May be repeated.")
@click.option("--algorithm", default="kl", show_default=True, help="How thresholds are chosen.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder.")
@json_option
def command(model: str, targets: tuple[str, ...], algorithm: str, output: Path, as_json: bool) -> None:
    """Quantize a real model with real samples, build it, and show what that costs and gains."""
    with working("fetching the model"):
        prepared = prepare(load_recipe(model))
    request = BuildRequest(
        model=prepared.model,
        output=output,
        targets=list(dict.fromkeys(["host", *targets])),
        samples=prepared.calibration,
        shapes=prepared.shapes,
        calibrate=CalibrateOptions(algorithm),
        check=False,
        float_library=True,
    )
    with counting("calibrating") as counted:
        report = build_model(request, messages.log if messages.is_terminal else lambda _: None, counted)
    with working("measuring accuracy and latency"):
        report = measure(report, prepared.evaluation)
    show(report.to_dict(), report.tables, as_json)
