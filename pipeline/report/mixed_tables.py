"""What was excepted from 8 bits so that a model is good enough, as tables, for people."""

from __future__ import annotations

from rich.table import Table

from pipeline.analysis.candidates import FLOAT
from pipeline.analysis.mixed_precision import MixedPrecision, PrecisionException


def mixed_tables(mixed: MixedPrecision | None, command: str | None) -> list[Table]:
    """Return what was asked for and reached, what each exception has gained and cost, and how to build that again.

    Args:
        mixed: what a search has found; None if there was none.
        command: a command line that builds the same libraries.
    """
    if mixed is None:
        return []
    summary = Table(show_header=False, title="as few exceptions from 8 bits as possible")
    summary.add_row("allowed", f"a drop of {mixed.max_drop} of {mixed.metric} ({mixed.mixed.checked.limit:.4g})")
    summary.add_row("measured on", f"{mixed.checked_on} {mixed.inputs}, {mixed.searched_on} others searched on")
    summary.add_row("float", f"{mixed.metric} {mixed.float_value:.5g}")
    for title, measured in (("all in int8", mixed.int8), ("with exceptions", mixed.mixed)):
        checked, searched = measured.checked, measured.searched
        summary.add_row(
            title,
            f"{mixed.metric} {checked.value:.5g}, a drop of {checked.drop:.4g}; on those searched on "
            f"{searched.value:.5g}, {searched.drop:.4g}",
        )
    summary.add_row("tried", f"{mixed.evaluations} models simulated, {mixed.quantizations} quantized")
    if mixed.int8_milliseconds is not None and mixed.mixed_milliseconds is not None:
        before, after = mixed.int8_milliseconds, mixed.mixed_milliseconds
        summary.add_row("latency here, 1 thread", f"{before:.3f} ms in int8, {after:.3f} ms with exceptions")
    if command is not None:
        summary.add_row("the same without a search", command)
    return [summary, *([_exceptions(mixed)] if mixed.exceptions else [])]


def _exceptions(mixed: MixedPrecision) -> Table:
    table = Table("kept in", "name", title="exceptions")
    for heading in (f"{mixed.metric} without it", "gained", "time", "ms"):
        table.add_column(heading, justify="right")
    for exception in mixed.exceptions:
        table.add_row(exception.kind, _names(exception), *_values(exception))
    table.caption = f"time: as a share of the float model's, {mixed.times}"
    return table


def _names(exception: PrecisionException) -> str:
    followed = len(exception.operators) - len(exception.names) if exception.kind == FLOAT else 0
    return ", ".join(exception.names) + (f" and {followed} that depend on it" if followed > 0 else "")


def _values(exception: PrecisionException) -> tuple[str, ...]:
    value, gained = exception.value_without, exception.gained
    return (
        "" if value is None else f"{value:.5g}",
        "" if gained is None else f"{gained:.4g}",
        f"{exception.time:.1%}",
        "" if exception.milliseconds is None else f"{exception.milliseconds:+.3f}",
    )
