"""The command line: `pipeline build`, `quantize`, `run`, `bench` and all that `_COMMANDS` lists.

Results go to standard output, everything else to standard error. With `--json`, standard output is one JSON object: the
result, or `{"error": {"kind": ..., "message": ..., "exit_code": ...}}`. The kind is the name of a class of `errors`, or
`UsageError`, `Interrupted` or `InternalError`. The message is printed on standard error as well.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from pipeline.errors import PipelineError, unknown_name

_COMMANDS = {
    "bench": "Time a library, here or on a device.",
    "build": "Quantize an ONNX model and build it for one or more targets.",
    "compare": "Compare a model's tensors in int8, one by one, with those in float.",
    "demo": "Run the whole pipeline on a real model and show accuracy and speed.",
    "inspect": "Show what is in an ONNX model or in a library.",
    "models": "List the models that have a recipe.",
    "profile": "Show where a library spends its time on this machine.",
    "quantize": "Quantize an ONNX model and write it as ONNX again.",
    "run": "Run a library on inputs from a file.",
    "sensitivity": "Rank tensors and layers by what quantizing each alone costs.",
    "targets": "List the targets that libraries can be built for.",
}


_SOFTWARE_FAULT = 70
"""Exit code for a bug of this package: EX_SOFTWARE of BSD's sysexits.h."""

_INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells report it."""


class _Commands(click.Group):
    """Imports the module of a command only when the command is used: `run`, for example, doesn't need the compiler."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(unknown_name("command", args[0], _COMMANDS))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(n, help=h) for n, h in sorted(_COMMANDS.items()) if n.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"pipeline.cli.{cmd_name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnx-int8-pipeline")
def cli() -> None:
    """Int8 models out of ONNX files, compiled ahead of time for x86 and arm64."""


def main() -> None:
    """Run the command line.

    The process ends with exit code 2 and a message after a user's mistake, 1 and a message if the work failed, 130
    after an interrupt, and 70 with a traceback after a bug of this package.
    """
    from pipeline.cli.console import log_to_console

    log_to_console()
    with _interrupts() as interrupts:
        try:
            _check_encoding()
            cli.main(standalone_mode=False)
        except (click.Abort, KeyboardInterrupt):
            _end_interrupted()
        except Exception as error:
            if interrupts:
                _end_interrupted()
            _end(error)


def _check_encoding() -> None:
    """Refuse arguments that aren't text in the encoding of file names, as libraries that get such a name fail.

    Raises:
        click.UsageError: there is one.
    """
    encoding = sys.getfilesystemencoding()
    for argument in sys.argv[1:]:
        try:
            argument.encode(encoding)
        except UnicodeEncodeError as error:
            raise click.UsageError(
                f"{os.fsencode(argument)!r} isn't text in {encoding}, the encoding of this locale. If it is in "
                "UTF-8, set LC_ALL=C.UTF-8 or PYTHONUTF8=1, else rename the file."
            ) from error


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Give the block a list to which each interrupt (Ctrl-C) is appended.

    If an interrupt arrives while TVM calls a Python function, TVM turns its KeyboardInterrupt into a RuntimeError. With
    the list, `main` still knows that there was an interrupt.
    """
    seen: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        seen.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield seen
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_interrupted() -> NoReturn:
    click.echo("Interrupted.", err=True)
    _exit("Interrupted", "Interrupted.", _INTERRUPTED)


def _end(error: Exception) -> NoReturn:
    if isinstance(error, click.exceptions.Exit):
        sys.exit(error.exit_code)
    if isinstance(error, click.ClickException):
        error.show()
        _exit("UsageError", error.format_message(), error.exit_code)
    if isinstance(error, PipelineError):
        click.echo(f"error: {error}", err=True)
        _exit(type(error).__name__, str(error), error.exit_code)
    import traceback

    traceback.print_exception(error)
    click.echo(
        "\nThis is a bug of onnx-int8-pipeline, not your mistake. Please report it, with the lines above, what "
        "`pip list` prints, and the model if you can.",
        err=True,
    )
    _exit("InternalError", f"{type(error).__name__}: {error}", _SOFTWARE_FAULT)


def _exit(kind: str, message: str, exit_code: int) -> NoReturn:
    """End the process with an exit code; with `--json`, print the error as JSON before."""
    arguments = list(itertools.takewhile(lambda argument: argument != "--", sys.argv[1:]))
    if "--json" in arguments:
        from pipeline.cli.console import describe_error

        text = json.dumps(describe_error(message, exit_code, kind), indent=2)
        # The error may be that standard output can't be written.
        with contextlib.suppress(OSError):
            click.echo(text)
    sys.exit(exit_code)
