"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import OptionError

if TYPE_CHECKING:
    from pipeline.deploy.rpc import RemoteRunner
    from pipeline.deploy.runner import Runner

Decorator = Callable[[Any], Any]

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

threads_option: Decorator = click.option("--threads", type=int, help="How many threads a run may use [default: all].")

rpc_option: Decorator = click.option("--rpc", metavar="HOST:PORT[/KEY]", help="Run on a TVM RPC server.")

tracker_option: Decorator = click.option(
    "--tracker", metavar="HOST:PORT/KEY", help="Run on a device that an RPC tracker hands out."
)


def parse_shapes(values: Sequence[str]) -> dict[str, list[int]]:
    """Return shapes by input name from texts such as `x=1,3,224,224`.

    Raises:
        OptionError: a text isn't of that form.
    """
    shapes = {}
    for value in values:
        name, separator, dims = value.rpartition("=")
        try:
            shape = [int(d) for d in dims.split(",")]
        except ValueError:
            shape = []
        if not separator or not name or not shape or min(shape) < 1:
            raise OptionError(f"--shape {value}: expected NAME=D,D,..., for example x=1,3,224,224.")
        shapes[name] = shape
    return shapes


@contextlib.contextmanager
def open_runner(
    library: Path, threads: int | None, rpc: str | None, tracker: str | None
) -> Iterator[Runner | RemoteRunner]:
    """Give the block a runner for a library: on this machine, or on the device that the options name.

    Raises:
        OptionError: both `rpc` and `tracker` are given.
    """
    if rpc is None and tracker is None:
        from pipeline.deploy.runner import Runner

        yield Runner(library, threads)
        return
    from pipeline.deploy.rpc import RemoteRunner

    with RemoteRunner(library, rpc=rpc, tracker=tracker, num_threads=threads) as runner:
        yield runner
