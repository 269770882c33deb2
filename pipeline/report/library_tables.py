"""What a library says about itself as tables, for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from pipeline.ir.program import TensorSpec
from pipeline.library.metadata import ArtifactMetadata


def library_tables(file: Path, metadata: ArtifactMetadata) -> list[Table]:
    """Return what a library says about itself.

    Args:
        file: the library.
        metadata: the library's.
    """
    summary = Table("", "", title=f"Library {file.name}", show_header=False)
    summary.add_row("model", metadata.model)
    summary.add_row("computes in", metadata.kind)
    summary.add_row("target", f"{metadata.target.name} ({metadata.target.triple}, {metadata.target.cpu})")
    summary.add_row("needs CPU features", ", ".join(metadata.target.required_features))
    summary.add_row("int8 operators", str(metadata.int8_operators))
    summary.add_row("float operators", str(len(metadata.float_operators)))
    if metadata.preprocessing is not msgspec.UNSET:
        summary.add_row("pictures", str(metadata.preprocessing))
    summary.add_row("built with", ", ".join(f"{name} {version}" for name, version in metadata.versions.items()))
    summary.add_row("model SHA-256", metadata.model_sha256)
    summary.add_row("table SHA-256", metadata.table_sha256 or "-")
    tables = [summary, inputs_and_outputs(metadata.inputs, metadata.outputs)]
    if metadata.float_operators:
        in_float = Table("operator", "type", "why", title="In float")
        for o in metadata.float_operators:
            in_float.add_row(o.name, o.operator, o.reason)
        tables.append(in_float)
    return tables


def inputs_and_outputs(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Table:
    """Return names, shapes and dtypes of a model's inputs and outputs as a table."""
    table = Table("", "name", "shape", "dtype")
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            table.add_row(kind, spec.name, str(spec.shape), spec.dtype)
    return table
