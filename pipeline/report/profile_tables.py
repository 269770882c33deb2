"""The profile of a library as tables, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.profiling import OperatorProfile, Profile

ALL_COLUMNS_WIDTH = 140
"""How many characters a line must hold to show all that is known of operators."""

ORDERS: Mapping[str, Callable[[OperatorProfile], Any]] = {
    "order": lambda _: 0,
    "time": lambda o: -o.minimum_us,
    "limit": lambda o: o.minimum_us * ((o.of_limit or 0) - 1),
}
"""Sorting keys of operators: by order of execution, by time, and by the time beyond what the machine's limits allow."""


def profile_tables(profile: Profile, order: str, width: int) -> list[Table]:
    """Return the operators, the totals, and remarks on operators if there are any.

    Args:
        profile: what was measured.
        order: a key of `ORDERS`.
        width: how many characters a line can hold; with fewer than `ALL_COLUMNS_WIDTH`, some columns are left out.
    """
    operators = sorted(profile.operators, key=ORDERS[order])
    table = _all_columns(profile, operators) if width >= ALL_COLUMNS_WIDTH else _main_columns(profile, operators)
    return [table, _totals(profile), *_remarks(operators)]


def _main_columns(profile: Profile, operators: Sequence[OperatorProfile]) -> Table:
    table = _titled(profile)
    table.caption = "A wider terminal shows kernels, medians and rates, too; so does --json."
    table.add_column("tensor")
    table.add_column("shape", no_wrap=True)
    for heading in ("min, us", "share", "of peak", "of limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for o in operators:
        peak = _percent(o.of_peak) if o.multiply_adds else ""
        table.add_row(o.name, _shape(o), f"{o.minimum_us:.1f}", f"{o.share:.1%}", peak, _percent(o.of_limit))
    return table


def _all_columns(profile: Profile, operators: Sequence[OperatorProfile]) -> Table:
    table = _titled(profile)
    table.add_column("tensor")
    table.add_column("kernel", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for heading in ("min, us", "median", "share", "GMAC/s", "of peak", "kB", "GB/s", "of limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for o in operators:
        rate = (f"{o.gmac_per_second:.1f}", _percent(o.of_peak)) if o.multiply_adds else ("", "")
        table.add_row(
            o.name,
            o.kernel,
            _shape(o),
            f"{o.minimum_us:.1f}",
            f"{o.median_us:.1f}",
            f"{o.share:.1%}",
            *rate,
            f"{o.bytes / 1e3:.1f}",
            f"{o.gbyte_per_second:.1f}",
            _percent(o.of_limit),
        )
    return table


def _titled(profile: Profile) -> Table:
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    return Table(title=f"{profile.model} ({profile.kind}) for {profile.target}, {threads}")


def _totals(profile: Profile) -> Table:
    table = Table("", "min, us", "median, us")
    table.add_row("run", f"{profile.run_minimum_us:.1f}", f"{profile.run_median_us:.1f}")
    table.add_row("operators", f"{profile.operators_minimum_us:.1f}", f"{profile.operators_median_us:.1f}")
    table.add_row("runtime around them", f"{profile.overhead:.1%}", "")
    if profile.limits is not None:
        table.add_row("int8 peak", f"{profile.limits.int8 * 1e-9:.1f} GMAC/s", "")
        table.add_row("float32 peak", f"{profile.limits.float32 * 1e-9:.1f} GMAC/s", "")
        for size, speed in profile.limits.copies[::3]:
            table.add_row(f"copy, {size / 1024:.0f} KiB in all", f"{speed * 1e-9:.1f} GB/s", "")
    return table


def _remarks(operators: Sequence[OperatorProfile]) -> list[Table]:
    remarks = [(o.name, o.note) for o in operators if o.note]
    if not remarks:
        return []
    table = Table("tensor", "to look at")
    for name, note in remarks:
        table.add_row(name, note)
    return [table]


def _shape(operator: OperatorProfile) -> str:
    return "x".join(map(str, operator.shape))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
