"""`pipeline run`."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from pipeline.cli.console import show
from pipeline.cli.inputs import read_inputs
from pipeline.cli.options import new_command, rpc_option, threads_option, tracker_option
from pipeline.errors import OptionError
from pipeline.files import write_bytes
from pipeline.library.metadata import read_metadata
from pipeline.runtime import open_runner


@new_command("run")
@click.argument("library", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), required=True, help=".npz by input name, .npy, or a picture."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the outputs, by name, to this .npz file.")
@threads_option
@rpc_option
@tracker_option
def command(
    library: Path,
    source: Path,
    output: Path | None,
    threads: int | None,
    rpc: str | None,
    tracker: str | None,
    as_json: bool,
) -> None:
    """Run LIBRARY on inputs from a file: arrays, or a picture if it was built with pictures."""
    if output is not None and output.suffix != ".npz":
        raise OptionError(f"--output {output}: outputs are written as .npz; give such a name.")
    feeds = read_inputs(source, read_metadata(library))
    with open_runner(library, threads, rpc, tracker) as runner:
        outputs = runner.run(feeds)
    if output is not None:
        memory = io.BytesIO()
        np.savez(memory, **outputs)  # type: ignore[arg-type]
        write_bytes(output, memory.getvalue())
    rows = [
        {
            "name": name,
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "minimum": float(value.min()) if value.size else None,
            "maximum": float(value.max()) if value.size else None,
            "argmax": int(value.argmax()) if value.size else None,
        }
        for name, value in outputs.items()
    ]

    def table() -> Table:
        made = Table("output", "shape", "dtype", "minimum", "maximum", "argmax")
        for row in rows:
            made.add_row(*("-" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
        return made

    show({"outputs": rows, "file": None if output is None else str(output)}, table, as_json)
