"""Prints results and progress for all commands: tables for people, JSON for scripts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import Enum
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.errors import OptionError

messages = Console(stderr=True)
"""The console for progress and warnings, on standard error; results go to standard output."""


UNLIMITED_COLUMNS = 200
"""Width of tables that aren't printed to a terminal: wide enough that nothing has to be wrapped."""

SECONDS_BETWEEN_LINES = 10
"""How often progress is printed if standard error isn't a terminal."""

ShowProgress = Callable[[str, int, "int | None"], None]
"""See `progress`."""


def show(data: dict[str, Any], table: Callable[[], Table | list[Table]], as_json: bool) -> None:
    """Print a result: with `as_json`, `data` as JSON, else the table or tables that `table` returns.

    Raises:
        OptionError: standard output can't be written.
    """
    if as_json:
        text = json.dumps(_without_infinities(data), indent=2, allow_nan=False)
        with _printing():
            click.echo(text)
        return
    # Names of tensors may look like rich's markup.
    console = Console(width=line_width(), markup=False, emoji=False)
    made = table()
    with _printing():
        for item in made if isinstance(made, list) else [made]:
            for column in item.columns:
                # Names and paths are wrapped rather than cut off.
                column.overflow = "fold"
            console.print(item)


def describe_error(error: Exception | str, exit_code: int, kind: str = "") -> dict[str, Any]:
    """Return the object that describes an error in JSON, alone or beside a result.

    Args:
        error: the error, or its message.
        exit_code: the process's exit code.
        kind: the kind of error; by default, the name of its class.
    """
    return {"error": {"kind": kind or type(error).__name__, "message": str(error), "exit_code": exit_code}}


def line_width() -> int:
    """Return how many characters a line of the result can have: the terminal's width, if there is a terminal."""
    console = Console()
    return console.width if console.is_terminal or "COLUMNS" in os.environ else UNLIMITED_COLUMNS


def _without_infinities(value: Any) -> Any:
    """Return a value in which None, JSON's null, replaces infinities and NaN, which JSON doesn't have."""
    if isinstance(value, dict):
        return {key: _without_infinities(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Within the block, print characters that standard output's encoding lacks as escapes, as standard error does.

    Raises:
        OptionError: standard output can't be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        # The reader of a pipe has closed it; click ends the process.
        raise
    except OSError as error:
        raise OptionError(f"Standard output can't be written: {error.strerror}.") from error


class Verbosity(Enum):
    """How much a command prints on standard error, errors aside."""

    QUIET = "quiet"
    """Nothing."""
    NORMAL = "normal"
    """Progress and warnings."""
    VERBOSE = "verbose"
    """Progress, warnings, how long each step took, and informative log messages."""


_LEVELS = {Verbosity.QUIET: logging.ERROR, Verbosity.NORMAL: logging.WARNING, Verbosity.VERBOSE: logging.INFO}
_VERBOSITY = f"{__name__}.verbosity"


def log_to_console() -> None:
    """Print log messages on standard error, warnings and worse by default."""
    handler = RichHandler(console=messages, show_time=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger().setLevel(logging.WARNING)


def set_verbosity(verbosity: Verbosity) -> None:
    """Set how much the current command prints from now on."""
    click.get_current_context().find_root().meta[_VERBOSITY] = verbosity
    logging.getLogger().setLevel(_LEVELS[verbosity])


def _verbosity() -> Verbosity:
    context = click.get_current_context(silent=True)
    chosen: Verbosity = Verbosity.NORMAL if context is None else context.meta.get(_VERBOSITY, Verbosity.NORMAL)
    return chosen


class _Bar:
    """Shows progress on a terminal: one line that changes, with rate and time left if the number of steps is known."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self._task is None or what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._what, self._task = what, self._bar.add_task(what, total=total, pace=Pace())
        self._bar.update(self._task, completed=done, total=total)


class _Lines:
    """Shows progress without a terminal: a line when something begins, and every few seconds while it goes on."""

    def __init__(self) -> None:
        self._what = ""
        self._said, self._pace = 0.0, Pace()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._said, self._pace = what, now, Pace()
            self._pace.text(done, total, now)
            click.echo(what, err=True)
            return
        text = self._pace.text(done, total, now)
        if done == total or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            click.echo(f"{what}: {text}", err=True)


class _StepsColumn(ProgressColumn):
    """Shows how many steps of a task are done, the rate, and the time left."""

    def render(self, task: Task) -> Text:
        """Return the text; empty for a task without steps."""
        if not task.completed and not task.total:
            return Text("")
        pace: Pace = task.fields["pace"]
        return Text(pace.text(int(task.completed), None if task.total is None else int(task.total), time.monotonic()))


class _CountedBarColumn(BarColumn):
    """Shows a bar for a task of which it is known how many steps it has."""

    def render(self, task: Task) -> Any:
        """Return the bar; nothing for another task."""
        return Text("") if task.total is None else super().render(task)


class Pace:
    """How fast steps follow one another: since the first of them, before which there may be much to prepare.

    Steps that were done in an earlier run, which the first one goes on from, don't count.
    """

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def text(self, done: int, total: int | None, now: float) -> str:
        """Return what `steps_text` does.

        Args:
            done: how many steps are done.
            total: how many there are; None if that isn't known.
            now: a time in seconds.
        """
        if self._first is None and done:
            self._first = done, now
        since, began = self._first or (0, now)
        return steps_text(done, total, now - began, since)


def steps_text(done: int, total: int | None, seconds: float, since: int = 0) -> str:
    """Return how many steps are done, the rate, and the time left, such as `30 of 300, 12.3/s, 0:00:22 left`.

    Args:
        done: how many steps are done.
        total: how many there are; None if that isn't known.
        seconds: how long those after the first ones took.
        since: how many the first ones are.
    """
    rate = (done - since) / seconds if seconds > 0 else 0.0
    parts = [str(done) if total is None else f"{done} of {total}"]
    if rate > 0:
        parts.append(f"{rate:.1f}/s")
        if total is not None and total > done:
            parts.append(f"{timedelta(seconds=round((total - done) / rate))} left")
    return ", ".join(parts)


class _StepTimer:
    """Passes progress on, and prints how long each step took."""

    def __init__(self, shown: ShowProgress) -> None:
        self._shown = shown
        self._what = ""
        self._began = 0.0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what != self._what:
            self.end()
            self._what, self._began = what, time.monotonic()
        self._shown(what, done, total)

    def end(self) -> None:
        """Print how long the last step took."""
        if self._what:
            messages.print(f"{self._what}: {time.monotonic() - self._began:.1f} s", markup=False, highlight=False)


@contextlib.contextmanager
def progress() -> Iterator[ShowProgress]:
    """Show progress while the block runs.

    The block gets a function to call with what it is doing, how many steps of that are done, and how many there are in
    all, or None if that isn't known.
    """
    if _verbosity() is Verbosity.QUIET:
        yield lambda what, done, total: None
        return
    with _shown() as shown:
        if _verbosity() is Verbosity.NORMAL:
            yield shown
            return
        times = _StepTimer(shown)
        yield times
        times.end()


@contextlib.contextmanager
def _shown() -> Iterator[ShowProgress]:
    if not messages.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _CountedBarColumn(bar_width=20),
        _StepsColumn(),
    )
    with Progress(*columns, console=messages, transient=True) as bar:
        yield _Bar(bar)


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """On a terminal, show what is being done while the block runs."""
    if not messages.is_terminal or _verbosity() is Verbosity.QUIET:
        yield
        return
    with messages.status(what):
        yield
