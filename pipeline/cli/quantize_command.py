"""`pipeline quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from pipeline.cli.console import progress, show
from pipeline.cli.options import given, new_command, options
from pipeline.config.options import ExportOptions
from pipeline.errors import OptionError
from pipeline.files import check_writable, make_folder


@new_command("quantize")
@click.argument("model")
@click.option("--samples", type=click.Path(path_type=Path), help="Folder of .npy or .npz files, or of pictures.")
@options(ExportOptions)
def command(model: str, samples: Path | None, as_json: bool, **values: Any) -> None:
    """Quantize MODEL, an .onnx file or a recipe (.toml), and write it as ONNX with int8 weights, for other runtimes."""
    chosen = ExportOptions.from_values(given(values, ExportOptions))
    if chosen.output is not None and chosen.output.suffix != ".onnx":
        raise OptionError(f"--output {chosen.output}: models are written as .onnx; give such a name.")
    # Only here: help should be there at once.
    from pipeline.report.build_tables import left_in_float
    from pipeline.workflow import quantize_model, with_recipe

    path, given_samples, chosen = with_recipe(model, samples, chosen)
    if chosen.output is not None:
        make_folder(chosen.output.parent)
    check_writable(chosen.output or Path("model.onnx"))
    with progress() as tell:
        quantized = quantize_model(path, given_samples, chosen, tell)
        tell("writing", 0, None)
        written = quantized.export(chosen.output or f"{quantized.program.name}.int8.onnx")
    annotation = quantized.annotation
    data = {
        "model": quantized.program.name,
        "file": str(written),
        "size": written.stat().st_size,
        "calibration_samples": quantized.table.samples,
        "annotation": msgspec.to_builtins(annotation),
    }

    def tables() -> list[Table]:
        summary = Table(show_header=False, title=str(data["model"]))
        summary.add_row("int8", annotation.summary())
        summary.add_row("file", f"{data['file']}, {data['size']} bytes")
        return [summary, *left_in_float(annotation)]

    show(data, tables, as_json)
