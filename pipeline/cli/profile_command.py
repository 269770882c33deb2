"""`pipeline profile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from pipeline.cli.console import columns, show, working
from pipeline.cli.inputs import read_inputs
from pipeline.cli.options import new_command, rpc_option, threads_option, tracker_option
from pipeline.library.metadata import read_metadata
from pipeline.profiling import OperatorProfile, Profile, profile

COLUMNS_OF_ALL = 140
"""How wide a terminal must be for all that is known of operators."""

_ORDERS: dict[str, Callable[[OperatorProfile], Any]] = {
    "order": lambda _: 0,
    "time": lambda o: -o.minimum_us,
    "limit": lambda o: o.minimum_us * ((o.of_limit or 0) - 1),
}
"""What `--sort` sorts by; "limit" by the time lost to the limit."""


@new_command("profile")
@click.argument("library", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), help=".npz, .npy or a picture [default: seeded noise]."
)
@click.option("--repeats", type=click.IntRange(min=1), default=30, show_default=True, help="Runs that are timed.")
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    default="order",
    show_default=True,
    help="By order of execution, by time, or by the time lost against the machine's limits.",
)
@click.option("--limits/--no-limits", default=True, help="Measure what the machine can do; needs the compiler.")
@threads_option
@rpc_option
@tracker_option
def command(
    library: Path,
    source: Path | None,
    repeats: int,
    sort: str,
    limits: bool,
    threads: int | None,
    rpc: str | None,
    tracker: str | None,
    as_json: bool,
) -> None:
    """Show how long each operator of LIBRARY takes, here or on a device, and how long it could take."""
    feeds = None if source is None else read_inputs(source, read_metadata(library))
    with working("measuring"):
        result = profile(library, feeds, threads=threads, repeats=repeats, limits=limits, rpc=rpc, tracker=tracker)
    operators = sorted(result.operators, key=_ORDERS[sort])
    show(result.to_dict(), lambda: [_operators(result, operators), _totals(result), *_notes(operators)], as_json)


def _operators(result: Profile, operators: list[OperatorProfile]) -> Table:
    """Return a line for each operator, with as much as fits."""
    return _all(result, operators) if columns() >= COLUMNS_OF_ALL else _most(result, operators)


def _most(result: Profile, operators: list[OperatorProfile]) -> Table:
    made = _titled(result)
    made.caption = "A wider terminal shows kernels, medians and rates, too; so does --json."
    made.add_column("tensor")
    made.add_column("shape", no_wrap=True)
    for heading in ("min, us", "share", "of peak", "of limit"):
        made.add_column(heading, justify="right", no_wrap=True)
    for o in operators:
        peak = _percent(o.of_peak) if o.multiply_adds else ""
        shape = "x".join(map(str, o.shape))
        made.add_row(o.name, shape, f"{o.minimum_us:.1f}", f"{o.share:.1%}", peak, _percent(o.of_limit))
    return made


def _titled(result: Profile) -> Table:
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return Table(title=f"{result.model} ({result.kind}) for {result.target}, {threads}")


def _all(result: Profile, operators: list[OperatorProfile]) -> Table:
    made = _titled(result)
    made.add_column("tensor")
    made.add_column("kernel", overflow="fold")
    made.add_column("shape", no_wrap=True)
    for heading in ("min, us", "median", "share", "GMAC/s", "of peak", "kB", "GB/s", "of limit"):
        made.add_column(heading, justify="right", no_wrap=True)
    for o in operators:
        work = (f"{o.gmac_per_second:.1f}", _percent(o.of_peak)) if o.multiply_adds else ("", "")
        made.add_row(
            o.name,
            o.kernel,
            "x".join(map(str, o.shape)),
            f"{o.minimum_us:.1f}",
            f"{o.median_us:.1f}",
            f"{o.share:.1%}",
            *work,
            f"{o.bytes / 1e3:.1f}",
            f"{o.gbyte_per_second:.1f}",
            _percent(o.of_limit),
        )
    return made


def _totals(result: Profile) -> Table:
    made = Table("", "min, us", "median, us")
    made.add_row("run", f"{result.run_minimum_us:.1f}", f"{result.run_median_us:.1f}")
    made.add_row("operators", f"{result.operators_minimum_us:.1f}", f"{result.operators_median_us:.1f}")
    made.add_row("runtime around them", f"{result.overhead:.1%}", "")
    if result.limits is not None:
        made.add_row("int8 peak", f"{result.limits.int8 * 1e-9:.1f} GMAC/s", "")
        made.add_row("float32 peak", f"{result.limits.float32 * 1e-9:.1f} GMAC/s", "")
        for size, speed in result.limits.copies[::3]:
            made.add_row(f"copy, {size / 1024:.0f} KiB in all", f"{speed * 1e-9:.1f} GB/s", "")
    return made


def _notes(operators: list[OperatorProfile]) -> list[Table]:
    noted = [o for o in operators if o.note]
    if not noted:
        return []
    made = Table("tensor", "to look at")
    for o in noted:
        made.add_row(o.name, o.note)
    return [made]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
