"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.errors import OptionError

Decorator = Callable[[Any], Any]

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

verify_option: Decorator = click.option(
    "--verify-import/--no-verify-import",
    default=True,
    help="Compare the imported float model with an independent evaluation of the ONNX file  [default: yes].",
)

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
