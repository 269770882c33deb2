"""`pipeline sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.cli.console import progress, show
from pipeline.cli.options import build_command, given, new_command, options
from pipeline.config.options import SensitivityOptions


@new_command("sensitivity")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, or of pictures.")
@options(SensitivityOptions)
def command(model: str, samples: Path | None, as_json: bool, **values: Any) -> None:
    """Rank tensors and layers of MODEL by what quantizing each alone costs, and say what to leave in float."""
    chosen = given(values, SensitivityOptions)
    # Only here: help should be there at once.
    from pipeline.diagnosis import sensitivity
    from pipeline.report.diagnosis_tables import sensitivity_tables

    with progress() as tell:
        result = sensitivity(model, samples, progress=tell, **chosen)
    suggestion = result.suggestion
    line = None
    if suggestion.keep_float and suggestion.helps:
        line = build_command(model, samples, values, suggestion.keep_float)
    show(result.to_dict() | {"command": line}, lambda: sensitivity_tables(result, line), as_json)
