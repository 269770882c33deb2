"""`pipeline compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.console import line_width, progress, show
from pipeline.cli.options import given, new_command, options
from pipeline.config.options import CompareOptions


@new_command("compare")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, or of pictures.")
@options(CompareOptions)
def command(model: str, samples: Path | None, as_json: bool, **values: Any) -> None:
    """Compare the tensors of MODEL in int8, one by one, with those in float."""
    chosen = given(values, CompareOptions)
    # Only here: help should be there at once.
    from pipeline.diagnosis import compare
    from pipeline.report.diagnosis_tables import comparison_tables

    with progress() as tell:
        result = compare(model, samples, progress=tell, **chosen)
    show(result.to_dict(), lambda: comparison_tables(result, line_width()), as_json)
