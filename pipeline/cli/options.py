"""Command line options: those that `config` declares, and others that several commands share."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline.cli.console import Verbosity, set_verbosity
from pipeline.config.options import BuildOptions, MixedPrecisionOptions
from pipeline.config.schema import Option, Options, counterpart, description, options_of

_SEARCHED = frozenset(o.key for o in options_of(MixedPrecisionOptions))
"""Keys of the options that a build without a search doesn't have."""

Decorator = Callable[[Any], Any]


def new_command(name: str) -> Decorator:
    """Return a decorator that makes a command and adds the options of all commands; `--json` is `as_json`."""

    def decorate(function: Any) -> click.Command:
        made = click.command(name=name, cls=_Command)(function)
        said = "Print one JSON object, with the result or an error, instead of tables."
        made.params.append(click.Option(["--json", "as_json"], is_flag=True, help=said))
        for flags, verbosity, help_text in (
            (["-q", "--quiet"], Verbosity.QUIET, "No progress, no warnings."),
            (["-v", "--verbose"], Verbosity.VERBOSE, "Also print how long each step took."),
        ):
            said_by = _verbosity_callback(verbosity)
            made.params.append(click.Option(flags, is_flag=True, expose_value=False, callback=said_by, help=help_text))
        return made

    return decorate


class _Command(click.Command):
    """Answers options of other tools with what they are here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            found = counterpart(options_of(BuildOptions), error.option_name)
            if not found:
                raise
            raise click.UsageError(f"No such option {error.option_name!r}.{found}", ctx) from error


def _verbosity_callback(verbosity: Verbosity) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            set_verbosity(verbosity)

    return callback


threads_option: Decorator = click.option(
    "--threads", type=int, help="How many threads a run may use [default: one for each core]."
)

rpc_option: Decorator = click.option("--rpc", metavar="HOST:PORT[/KEY]", help="Run on a TVM RPC server.")

tracker_option: Decorator = click.option(
    "--tracker", metavar="HOST:PORT/KEY", help="Run on a device that an RPC tracker assigns."
)


def options(kind: type[Options] = BuildOptions, only: Iterable[str] | None = None) -> Decorator:
    """Return a decorator that adds the options of a class to a command.

    Each option becomes a parameter of the command's function with the name of its key; it is None if the option isn't
    given. `given` turns these parameters into values.

    Args:
        kind: the class of options.
        only: keys of the options to add; None means all.
    """
    known = {o.key: o for o in options_of(kind)}
    chosen = list(known) if only is None else list(only)

    def decorate(function: Any) -> Any:
        for key in reversed(chosen):
            function = _decorator(known[key])(function)
        return function

    return decorate


def given(values: Mapping[str, Any], kind: type[Options] = BuildOptions) -> dict[str, Any]:
    """Return the values of the options that were given on the command line, by key, for `Options.from_values`.

    Args:
        values: the parameters of a command's function.
        kind: the class of options.
    """
    known = {o.key: o for o in options_of(kind)}
    return {key: _value(known[key], value) for key, value in values.items() if value is not None and value != ()}


def spelled(values: Mapping[str, Any], kind: type[Options] = BuildOptions) -> list[str]:
    """Return the options that were given as words of a command line; those that the class doesn't have are left out.

    Args:
        values: a command's parameters.
        kind: the class of the options.
    """
    words: list[str] = []
    for option in options_of(kind):
        value = values.get(option.key)
        if value is None or value == ():
            continue
        flags = option.flag.split("/")
        if option.kind is bool:
            words.append(flags[0 if value else -1])
        else:
            words += [word for item in (value if option.many else [value]) for word in (flags[0], str(item))]
    return words


def build_command(
    model: str,
    samples: Path | None,
    values: Mapping[str, Any],
    keep_float: Iterable[str],
    keep_16: Iterable[str] = (),
) -> str:
    """Return the command line that builds a model with some exceptions from 8 bits, without searching for them.

    Args:
        model: the model that was given.
        samples: its samples.
        values: the parameters of the command that has found these exceptions.
        keep_float: operators to leave in float.
        keep_16: tensors to keep in 16 bits.
    """
    fixed = {key: value for key, value in values.items() if key not in _SEARCHED}
    given_samples = [] if samples is None else ["--samples", str(samples)]
    kept = [("--keep-float", name) for name in keep_float] + [("--keep-16", name) for name in keep_16]
    return shlex.join(["pipeline", "build", model, *given_samples, *spelled(fixed), *itertools.chain(*kept)])


def _decorator(option: Option) -> Decorator:
    names = [*([option.short] if option.short else []), option.flag, *option.aliases, option.key]
    default = f"  [default: {option.default_text}]" if option.default_text else ""
    words = f"{description(option, default=False)}{' May be repeated.' if option.many else ''}{default}"
    return click.option(
        *names,
        type=None if option.parse is not None or option.kind is bool else _type(option.kind),
        is_flag=True if option.kind is bool else None,
        default=None,
        multiple=option.many,
        metavar=option.metavar or None,
        help=words,
        shell_complete=_completion(option),
    )


def _type(kind: Any) -> Any:
    return kind if kind in (int, float, str) else click.Path(path_type=kind)


def _value(option: Option, value: Any) -> Any:
    if option.parse is None:
        return value
    if not option.many:
        return option.parse(value)
    items = [option.parse(text) for text in value]
    return dict(items) if isinstance(option.default, Mapping) else items


def _completion(option: Option) -> Callable[..., list[CompletionItem]] | None:
    suggestions = option.suggestions
    if not option.choices and suggestions is None:
        return None

    def complete(context: click.Context, parameter: click.Parameter, text: str) -> list[CompletionItem]:
        known = option.choices or (suggestions() if suggestions is not None else ())
        found = [CompletionItem(name) for name in known if name.lower().startswith(text.lower())]
        # Where other values are allowed, the value may be a file.
        return found or ([] if option.choices else [CompletionItem(text, type="file")])

    return complete
