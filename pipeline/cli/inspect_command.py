"""`pipeline inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from pipeline.cli.console import show, working
from pipeline.cli.options import given, new_command, options
from pipeline.config.options import BuildOptions
from pipeline.library.metadata import read_metadata


@new_command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@options(only=("shapes", "verify_import"))
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
    from pipeline.importer import import_model
    from pipeline.quantization.annotate import annotate
    from pipeline.report.tables import describe_check
    from pipeline.workflow import verify, warn_if_quantized

    program = import_model(file, chosen.shapes)
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

    def tables() -> list[Table]:
        verified = Table(show_header=False)
        verified.add_row("import verified", describe_check(check))
        operators = Table("operator", "type", "computed in", "why", title=f"Model {program.name}")
        for o in annotation.operators:
            operators.add_row(o.name, o.operator, o.precision, o.reason)
        return [_specs(data), verified, operators]

    show(data, tables, as_json)


def _library(file: Path, as_json: bool) -> None:
    metadata = read_metadata(file)
    data = msgspec.to_builtins(metadata)

    def tables() -> list[Table]:
        summary = Table("", "", title=f"Library {file.name}", show_header=False)
        summary.add_row("model", metadata.model)
        summary.add_row("computes in", metadata.kind)
        summary.add_row("target", f"{metadata.target.name} ({metadata.target.triple}, {metadata.target.cpu})")
        summary.add_row("needs CPU features", ", ".join(metadata.target.required_features))
        summary.add_row("int8 operators", str(metadata.int8_operators))
        summary.add_row("float operators", str(len(metadata.float_operators)))
        if metadata.preprocessing is not msgspec.UNSET:
            summary.add_row("pictures", str(metadata.preprocessing))
        summary.add_row("built with", ", ".join(f"{k} {v}" for k, v in metadata.versions.items()))
        summary.add_row("model SHA-256", metadata.model_sha256)
        summary.add_row("table SHA-256", metadata.table_sha256 or "-")
        tables = [summary, _specs(data)]
        if metadata.float_operators:
            left = Table("operator", "type", "why", title="In float")
            for o in metadata.float_operators:
                left.add_row(o.name, o.operator, o.reason)
            tables.append(left)
        return tables

    show(data, tables, as_json)


def _specs(data: dict[str, Any]) -> Table:
    table = Table("", "name", "shape", "dtype")
    for kind in ("inputs", "outputs"):
        for spec in data[kind]:
            table.add_row(kind.removesuffix("s"), spec["name"], str(tuple(spec["shape"])), spec["dtype"])
    return table
