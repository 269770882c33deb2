"""What was found out about a model as tables, for people."""

from __future__ import annotations

from rich.table import Table

from pipeline.analysis.comparison import Comparison
from pipeline.analysis.sensitivity import Sensitivity

ROWS = 30
"""Of a ranking that are shown."""


ALL_COLUMNS_WIDTH = 100
"""How many characters a line must hold to show all that is known of tensors."""


def comparison_tables(comparison: Comparison, width: int) -> list[Table]:
    """Return how far int8 is from float, tensor by tensor.

    Args:
        comparison: of a model's tensors.
        width: how many characters a line can hold; with fewer than `ALL_COLUMNS_WIDTH`, some columns are left out.
    """
    narrow = width < ALL_COLUMNS_WIDTH
    where = f"{comparison.samples} {comparison.inputs}"
    table = Table(title=f"{comparison.model}: int8 beside float on {where}")
    for heading in ("tensor", "type", "precision"):
        table.add_column(heading, no_wrap=heading == "precision")
    for heading in ("SQNR, dB", "clipped", "unused") + (() if narrow else ("fall, dB", "cosine")):
        table.add_column(heading, justify="right", no_wrap=True)
    for t in comparison.tensors:
        fall = "" if t.fall_db is None else f"{t.fall_db:.1f}"
        clipped, unused = ("" if share is None else f"{share:.2%}" for share in (t.clipped, t.unused))
        more = () if narrow else (fall, f"{t.cosine:.5f}")
        table.add_row(t.name, t.operator, t.precision, f"{t.sqnr_db:.1f}", clipped, unused, *more)
    summary = Table(show_header=False)
    summary.add_row(f"first below {comparison.below:g} dB", _first(comparison))
    return [table, summary]


def _first(comparison: Comparison) -> str:
    first = comparison.first
    return "none" if first is None else f"{first.name} ({first.operator}), {first.sqnr_db:.1f} dB"


def sensitivity_tables(sensitivity: Sensitivity, command: str | None) -> list[Table]:
    """Return what quantizing each part alone costs, and what to do about it.

    Args:
        sensitivity: the ranking.
        command: a command line that does so; None if nothing is to be done.
    """
    where = f"{sensitivity.samples} {sensitivity.inputs}"
    table = Table(title=f"{sensitivity.model}: quantized alone, on {where}")
    for heading in ("part", "name", "type"):
        table.add_column(heading)
    # Signal to noise has a column in any case.
    own = sensitivity.metric not in ("SQNR, dB", "cosine")
    for heading in ("share", *([sensitivity.metric] if own else []), "SQNR, dB", "cosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    for c in sensitivity.costs[:ROWS]:
        values = ([f"{c.value:.5g}"] if own else []) + [f"{c.sqnr_db:.1f}", f"{c.cosine:.5f}"]
        table.add_row(c.kind, c.name, c.operator, f"{c.share:.1%}", *values)
    if len(sensitivity.costs) > ROWS:
        table.caption = f"{len(sensitivity.costs) - ROWS} more cost less; --json has them."
    return [table, _suggested(sensitivity, command)]


def _suggested(sensitivity: Sensitivity, command: str | None) -> Table:
    suggestion = sensitivity.suggestion
    table = Table(show_header=False)
    if not suggestion.keep_float:
        table.add_row("to leave in float", "nothing: no rounding costs anything")
        return table
    table.add_row("to leave in float", f"{', '.join(suggestion.keep_float)} ({suggestion.share:.0%} of the cost)")
    if suggestion.before is not None and suggestion.after is not None:
        table.add_row(
            f"{sensitivity.metric} in int8", f"{suggestion.before:.5g}, with these in float {suggestion.after:.5g}"
        )
    if command is None:
        table.add_row(
            "", "It doesn't help, so roundings don't add up here: try another --metric, or more samples, --measure."
        )
    else:
        table.add_row("command", command)
    return table
