"""What was found out about a model as tables, for people."""

from __future__ import annotations

from rich.table import Table

from pipeline.analysis.comparison import Comparison


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return how far int8 is from float, tensor by tensor."""
    where = f"{comparison.samples} {comparison.inputs}"
    table = Table(title=f"{comparison.model}: int8 beside float on {where}")
    for heading in ("tensor", "type", "precision"):
        table.add_column(heading)
    for heading in ("SQNR, dB", "fall, dB", "cosine", "clipped", "unused"):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in comparison.tensors:
        fall = "" if t.fall_db is None else f"{t.fall_db:.1f}"
        clipped, unused = ("" if share is None else f"{share:.2%}" for share in (t.clipped, t.unused))
        table.add_row(t.name, t.operator, t.precision, f"{t.sqnr_db:.1f}", fall, f"{t.cosine:.5f}", clipped, unused)
    summary = Table(show_header=False)
    summary.add_row(f"first below {comparison.below:g} dB", _first(comparison))
    return [table, summary]


def _first(comparison: Comparison) -> str:
    first = comparison.first
    return "none" if first is None else f"{first.name} ({first.operator}), {first.sqnr_db:.1f} dB"
