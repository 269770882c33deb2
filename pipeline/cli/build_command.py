"""`pipeline build`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.console import progress, show
from pipeline.cli.options import given, new_command, options


@new_command("build")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, or of pictures.")
@options()
def command(model: str, samples: Path | None, as_json: bool, **values: Any) -> None:
    """Quantize MODEL, an .onnx file or a recipe (.toml), and build it for each target."""
    chosen = given(values)
    # Only here: help should be there at once.
    from pipeline.workflow import build

    with progress() as tell:
        report = build(model, samples, progress=tell, **chosen)
    show(report.to_dict(), report.tables, as_json)
