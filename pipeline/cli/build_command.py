"""`pipeline build`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.cli.console import describe_error, progress, show
from pipeline.cli.options import given, new_command, options
from pipeline.errors import QuantizationError


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
    data = report.to_dict()
    try:
        report.require()
    except QuantizationError as error:
        show(data | describe_error(error, error.exit_code), lambda: build_tables(report), as_json)
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    show(data, lambda: build_tables(report), as_json)
