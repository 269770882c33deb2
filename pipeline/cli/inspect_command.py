"""`pipeline inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline.cli.console import show, working
from pipeline.cli.options import given, new_command, options
from pipeline.config.options import BuildOptions
from pipeline.library.metadata import read_metadata
from pipeline.report.library_tables import library_tables


@new_command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@options(only=("shapes", "fixed", "cut_at", "verify_import"))
def command(file: Path, as_json: bool, **values: Any) -> None:
    """Show what is in FILE: an ONNX model (which operators would become int8, and why) or a library."""
    if not _is_library(file):
        _model(file, BuildOptions.from_values(given(values)), as_json)
    else:
        _library(file, as_json)


def _is_library(file: Path) -> bool:
    """Return whether a file is a library rather than a model: by what it begins with, or by its name."""
    try:
        with file.open("rb") as stream:
            return stream.read(4) == b"\x7fELF" or file.suffix == ".so"
    except OSError:
        return file.suffix == ".so"


def _model(file: Path, chosen: BuildOptions, as_json: bool) -> None:
    # Only here: what a library says is read without the compiler.
    from pipeline.importer import import_model
    from pipeline.quantization.annotate import annotate
    from pipeline.report.model_tables import model_tables
    from pipeline.workflow import verify, warn_if_quantized

    program = import_model(file, chosen.shapes, fixed=chosen.fixed, cut_at=chosen.cut_at)
    check = None
    if chosen.verify_import:
        with working("verifying the import"):
            check = verify(file, program)
    warn_if_quantized(program)
    annotation = annotate(program)
    data: dict[str, Any] = {
        "model": program.name,
        "inputs": [vars(i) for i in program.inputs],
        "outputs": [vars(o) for o in program.outputs],
        "import_check": None if check is None else vars(check),
        "nodes": [vars(n) for n in program.nodes],
        **msgspec.to_builtins(annotation),
    }
    show(data, lambda: model_tables(program, annotation, check), as_json)


def _library(file: Path, as_json: bool) -> None:
    metadata = read_metadata(file)
    show(msgspec.to_builtins(metadata), lambda: library_tables(file, metadata), as_json)
