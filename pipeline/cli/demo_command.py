"""`pipeline demo`."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.console import progress, show
from pipeline.cli.options import given, new_command, options


@new_command("demo")
@click.option("--model", default="digits", show_default=True, help="A recipe, see `pipeline models`.")
@options(only=("targets", "algorithm", "output"))
def command(model: str, as_json: bool, **values: Any) -> None:
    """Quantize a real model with real samples, build it, and compare accuracy and speed of float and int8.

    It is built for this machine and for the given targets; without --target, for this machine and android-arm64.
    """
    chosen = given(values)
    # Imported here so that --help doesn't wait for it.
    from pipeline.recipes import load_recipe, prepare
    from pipeline.report.build_tables import build_tables
    from pipeline.workflow import build, measure

    with progress() as tell:
        tell("fetching the model", 0, None)
        prepared = prepare(load_recipe(model))
        chosen["targets"] = list(dict.fromkeys(["host", *chosen.get("targets", ["android-arm64"])]))
        fixed = {"shapes": prepared.shapes, "check": False, "float_library": True}
        report = build(prepared.model, prepared.calibration, progress=tell, **chosen, **fixed)
        tell("measuring accuracy and latency", 0, None)
        report = measure(report, prepared.evaluation)
    show(report.to_dict(), lambda: build_tables(report), as_json)
