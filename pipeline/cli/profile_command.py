"""`pipeline profile`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.console import line_width, show, working
from pipeline.cli.inputs import read_inputs
from pipeline.cli.options import new_command, rpc_option, threads_option, tracker_option
from pipeline.library.metadata import read_metadata
from pipeline.profiling import profile
from pipeline.report.profile_tables import ORDERS, profile_tables


@new_command("profile")
@click.argument("library", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), help=".npz, .npy or a picture [default: random numbers]."
)
@click.option("--repeats", type=click.IntRange(min=1), default=30, show_default=True, help="How many runs are timed.")
@click.option(
    "--sort",
    type=click.Choice(list(ORDERS)),
    default="order",
    show_default=True,
    help="By order of execution, by time, or by the time beyond what the machine's limits allow.",
)
@click.option(
    "--limits/--no-limits", default=True, help="Measure the machine's limits, for comparison; needs the compiler."
)
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
    """Show how long each operator of LIBRARY takes, here or on a device, and how close it is to the machine's limit."""
    feeds = None if source is None else read_inputs(source, read_metadata(library))
    with working("measuring"):
        result = profile(library, feeds, threads=threads, repeats=repeats, limits=limits, rpc=rpc, tracker=tracker)
    show(result.to_dict(), lambda: profile_tables(result, sort, line_width()), as_json)
