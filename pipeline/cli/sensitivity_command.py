"""`pipeline sensitivity`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.console import progress, show
from pipeline.cli.options import given, new_command, options, spelled
from pipeline.config.options import SensitivityOptions

if TYPE_CHECKING:
    # Only for the annotation: help should be there at once.
    from pipeline.analysis.sensitivity import Suggestion


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
    line = _command(model, samples, values, result.suggestion)
    show(result.to_dict() | {"command": line}, lambda: sensitivity_tables(result, line), as_json)


def _command(model: str, samples: Path | None, values: Mapping[str, Any], suggestion: Suggestion) -> str | None:
    """Return the command line that builds the model as suggested, with these options; None if that is no use."""
    if not suggestion.keep_float or not suggestion.helps:
        return None
    given_samples = [] if samples is None else ["--samples", str(samples)]
    kept = (word for name in suggestion.keep_float for word in ("--keep-float", name))
    return shlex.join(["pipeline", "build", model, *given_samples, *spelled(values), *kept])
