"""`pipeline bench`."""

from __future__ import annotations

import statistics
from pathlib import Path

import click
from rich.table import Table

from pipeline.cli.console import show
from pipeline.cli.inputs import read_inputs
from pipeline.cli.options import new_command, rpc_option, threads_option, tracker_option
from pipeline.library.metadata import read_metadata
from pipeline.runtime import open_runner
from pipeline.runtime.tensors import random_feeds


@new_command("bench")
@click.argument("library", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), help=".npz, .npy or a picture [default: random numbers]."
)
@click.option("--repeats", type=click.IntRange(min=1), default=30, show_default=True, help="How many runs are timed.")
@threads_option
@rpc_option
@tracker_option
def command(
    library: Path,
    source: Path | None,
    repeats: int,
    threads: int | None,
    rpc: str | None,
    tracker: str | None,
    as_json: bool,
) -> None:
    """Measure how many milliseconds a run of LIBRARY takes, on this machine or on a device."""
    metadata = read_metadata(library)
    feeds = random_feeds(metadata.inputs) if source is None else read_inputs(source, metadata)
    with open_runner(library, threads, rpc, tracker) as runner:
        seconds = runner.benchmark(feeds, repeats=repeats)
    summary = {
        "library": str(library),
        "runs": len(seconds),
        "minimum_ms": min(seconds) * 1e3,
        "median_ms": statistics.median(seconds) * 1e3,
        "maximum_ms": max(seconds) * 1e3,
    }

    def table() -> Table:
        made = Table("runs", "minimum, ms", "median, ms", "maximum, ms")
        made.add_row(str(summary["runs"]), *(f"{summary[k]:.3f}" for k in ("minimum_ms", "median_ms", "maximum_ms")))
        return made

    show(summary, table, as_json)
