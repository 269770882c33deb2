"""`pipeline build`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.console import describe_error, progress, show
from pipeline.cli.options import build_command, given, new_command, options
from pipeline.errors import QuantizationError

if TYPE_CHECKING:
    # Only for the annotation: help should be there at once.
    from pipeline.report.build_report import BuildReport


@new_command("build")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, or of pictures.")
@options()
def command(model: str, samples: Path | None, as_json: bool, **values: Any) -> None:
    """Quantize MODEL, an .onnx file or a recipe (.toml), and build it for each target."""
    chosen = given(values)
    # Imported here so that --help doesn't wait for it.
    from pipeline.report.build_tables import build_tables
    from pipeline.workflow import build

    with progress() as tell:
        report = build(model, samples, progress=tell, **chosen)
    line = _without_search(model, samples, values, report)
    data = report.to_dict() | ({} if line is None else {"command": line})
    try:
        report.require()
    except QuantizationError as error:
        show(data | describe_error(error, error.exit_code), lambda: build_tables(report, line), as_json)
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    show(data, lambda: build_tables(report, line), as_json)


def _without_search(model: str, samples: Path | None, values: Mapping[str, Any], report: BuildReport) -> str | None:
    """Return the command line that builds the same libraries as `--max-drop` did; None if nothing was searched for."""
    if report.mixed is None:
        return None
    # Only here: help should be there at once.
    from pipeline.workflow.mixing import HELD_BACK

    implied = values["check_samples"] is None and not values["hold_back"]
    fixed = {**values, "hold_back": HELD_BACK} if implied else values
    return build_command(model, samples, fixed, report.mixed.keep_float, report.mixed.keep_16)
