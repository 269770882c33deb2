"""What every command prints through: tables and progress for people, JSON for scripts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.errors import OptionError

messages = Console(stderr=True)
"""Progress and warnings; results go to standard output."""


def show(data: dict[str, Any], table: Callable[[], Table | list[Table]], as_json: bool) -> None:
    """Print a result: `data` as JSON, or the table or tables made by `table`.

    Raises:
        OptionError: standard output can't be written.
    """
    if as_json:
        text = json.dumps(_plain(data), indent=2, allow_nan=False)
        with _printing():
            click.echo(text)
        return
    # A file or a pipe has no width; nothing in it should be cut or wrapped. Models' names may look like markup.
    width = None if Console().is_terminal else 200
    console = Console(width=width, markup=False, emoji=False)
    made = table()
    with _printing():
        for item in made if isinstance(made, list) else [made]:
            console.print(item)


def _plain(value: Any) -> Any:
    """Return a value with null for numbers that JSON doesn't have: infinities and NaN."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Print what standard output's encoding lacks by its number, as standard error does.

    Raises:
        OptionError: standard output can't be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        # Whoever reads it has seen enough; click ends for that.
        raise
    except OSError as error:
        raise OptionError(f"Standard output can't be written: {error.strerror}.") from error


def log_to_console() -> None:
    """Send the package's warnings to standard error."""
    handler = RichHandler(console=messages, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])


@contextlib.contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a count while the block runs; the block calls the given function with how many are done. Terminals only."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something is being done while the block runs. Terminals only."""
    if not messages.is_terminal:
        yield
        return
    with messages.status(what):
        yield
