"""What an option is: a field of a dataclass, together with its help text, its flag, and what values it takes.

A class of options is a frozen dataclass with the base `Options`. Its fields are made by `option`, or by `group` for
options of another class that it contains. Users see one flat list of keys, whatever the grouping: `Options.from_values`
makes an object from keys and values, as keyword arguments, the command line and configuration files give them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar

import msgspec

from pipeline.errors import OptionError, unknown_name
from pipeline.other_tools import OPTIONS, hint

_KEY = "option"
"""Key in the metadata of a dataclass field that leads to the details of an option."""

OptionsType = TypeVar("OptionsType", bound="Options")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        key: its name in Python and in configuration files.
        kind: type of its values; if it is a list, of the list's items.
        many: whether it is a list (`--target a --target b`, `targets=["a", "b"]`) or a mapping, of which the command
            line gives one item at a time.
        default: its value if none is given.
        help: a sentence or two, without the default.
        flag: its name on the command line. A boolean that is true by default has two: `--check/--no-check`.
        short: a flag of one letter, or "".
        aliases: other names on the command line.
        metavar: placeholder for the value in help texts, or "".
        unset: what it means to give no value, if the default is None, such as "all samples".
        choices: the values that are allowed, for a list the items that are; () if any value is. A value may be written
            in any case, and is returned as it is spelled here.
        extensible: whether a program may add to what the choices name. Other values are allowed then, and whatever uses
            the option refuses those that it doesn't know.
        suggestions: returns values to complete on the command line, where any value is allowed.
        minimum: the smallest number allowed; None if there is no limit.
        maximum: the largest number allowed; None if there is no limit.
        paddle: PaddleSlim's name for it, or "".
        parse: returns the value for a text on the command line, for a mapping the (key, value) of one item; None for
            plain types.
    """

    key: str
    kind: Any
    many: bool
    default: Any
    help: str
    flag: str
    short: str = ""
    aliases: tuple[str, ...] = ()
    metavar: str = ""
    unset: str = ""
    choices: tuple[str, ...] = ()
    extensible: bool = False
    suggestions: Callable[[], Iterable[str]] | None = None
    minimum: float | None = None
    maximum: float | None = None
    paddle: str = ""
    parse: Callable[[str], Any] | None = None

    @property
    def title(self) -> str:
        """Its name in messages: the key, with the flag if that is another word."""
        return f"{self.key} ({self.flag})" if self.flag != f"--{self.key}" else self.flag

    @property
    def default_text(self) -> str:
        """The default as help texts show it; "" if they show none."""
        if self.default is None or self.default in ((), {}):
            return self.unset
        if isinstance(self.default, bool):
            return "yes" if self.default else ""
        return ", ".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    def checked(self, value: Any) -> Any:
        """Return a value, converted to the option's type; a choice is returned as it is spelled in `choices`.

        Raises:
            OptionError: the value has another type, is too small or too large, or isn't among the choices.
        """
        if value is None and self.default is None:
            return None
        if self.many and not isinstance(value, Mapping):
            return tuple(self._checked(item) for item in _as_items(self.title, value))
        return self._checked(value)

    def _checked(self, value: Any) -> Any:
        value = _converted(self.title, self.kind, value)
        if self.minimum is not None and not value >= self.minimum:
            raise OptionError(f"{self.title} is {value}; it must be at least {self.minimum:g}.")
        if self.maximum is not None and not value <= self.maximum:
            raise OptionError(f"{self.title} is {value}; it must be at most {self.maximum:g}.")
        spelled = {name.lower(): name for name in self.choices}.get(str(value).lower(), value)
        if self.choices and not self.extensible and spelled not in self.choices:
            raise OptionError(unknown_name(self.key, str(value), self.choices))
        return _converted(self.title, self.kind, spelled)


def option(default: Any, help: str, **details: Any) -> Any:
    """Return a dataclass field that is an option.

    Args:
        default: see `Option`.
        help: see `Option`.
        details: other attributes of `Option`; `key`, `kind` and `many` follow from the field.
    """
    # A dataclass refuses a dictionary as a default, as it could be changed; this one never is.
    stated: dict[str, Any] = {"default_factory": lambda: default} if isinstance(default, dict) else {"default": default}
    return dataclasses.field(**stated, metadata={_KEY: {"default": default, "help": help, **details}})


def group(kind: type[Options]) -> Any:
    """Return a dataclass field that holds the options of another class."""
    return dataclasses.field(default_factory=kind, metadata={_KEY: kind})


@dataclass(frozen=True)
class Options:
    """Base of all classes of options. Values are checked when an object is made."""

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            OptionError: see `Option.checked`.
        """
        for known in _own_options(type(self)):
            object.__setattr__(self, known.key, known.checked(getattr(self, known.key)))

    @classmethod
    def from_values(cls: type[OptionsType], values: Mapping[str, Any], base: OptionsType | None = None) -> OptionsType:
        """Return an object with the given values, those of grouped options included.

        Args:
            values: by key. A key that is missing keeps its default.
            base: an object whose values take the place of the defaults.

        Raises:
            OptionError: a key is unknown, or a value is wrong.
        """
        _check_keys(values, options_of(cls))
        return cls._made(values, base)

    @classmethod
    def _made(cls: type[OptionsType], values: Mapping[str, Any], base: OptionsType | None) -> OptionsType:
        own = {known.key: values[known.key] for known in _own_options(cls) if known.key in values}
        for name, kind in _groups(cls).items():
            own[name] = kind._made(values, None if base is None else getattr(base, name))
        return cls(**own) if base is None else dataclasses.replace(base, **own)


def options_of(kind: type[Options]) -> tuple[Option, ...]:
    """Return all options of a class, those of its groups first."""
    grouped = [known for inner in _groups(kind).values() for known in options_of(inner)]
    return (*grouped, *_own_options(kind))


def keywords(*kinds: type[Options]) -> Callable[[Function], Function]:
    """Return a decorator for a function that takes options by key as its last parameter, `**keys`.

    The decorator puts the options into the function's signature, and their descriptions into its docstring, in place of
    the line `**keys: {options}`.
    """
    known = [o for kind in kinds for o in options_of(kind)]

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [inspect.Parameter(o.key, inspect.Parameter.KEYWORD_ONLY, default=o.default) for o in known]
        function.__signature__ = signature.replace(parameters=[*fixed, *named])  # type: ignore[attr-defined]
        lines = "\n        ".join(docstring_line(o) for o in known)
        # Python may have left docstrings out (-OO).
        function.__doc__ = None if function.__doc__ is None else function.__doc__.replace("**keys: {options}", lines)
        return function

    return decorate


def docstring_line(known: Option) -> str:
    """Return the line that describes an option in a docstring."""
    return f"{known.key}: {description(known)}"


def description(known: Option, default: bool = True) -> str:
    """Return an option's help text with its choices, what no value means, and PaddleSlim's name.

    Args:
        known: the option.
        default: whether to add what no value means.
    """
    choices = f" One of {', '.join(known.choices)}." if known.choices else ""
    unset = f" Default: {known.unset}." if default and known.unset else ""
    paddle = f" PaddleSlim: {known.paddle}." if known.paddle else ""
    return f"{known.help}{choices}{unset}{paddle}"


def _groups(kind: type[Options]) -> dict[str, type[Options]]:
    fields = {f.name: f.metadata.get(_KEY) for f in dataclasses.fields(kind)}
    return {name: inner for name, inner in fields.items() if isinstance(inner, type)}


def _own_options(kind: type[Options]) -> tuple[Option, ...]:
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        said = field.metadata.get(_KEY)
        if isinstance(said, Mapping):
            hint, many = _value_type(hints[field.name])
            flag = said.get("flag", _flag(field.name, said["default"]))
            found.append(Option(**{"key": field.name, "kind": hint, "many": many, **said, "flag": flag}))
    return tuple(found)


def _flag(key: str, default: Any) -> str:
    name = key.replace("_", "-")
    return f"--{name}/--no-{name}" if default is True else f"--{name}"


def _value_type(hint: Any) -> tuple[Any, bool]:
    """Return `kind` and `many` of an option for a field's type hint; see `Option`."""
    if typing.get_origin(hint) in (UnionType, typing.Union):
        kinds = tuple(h for h in typing.get_args(hint) if h is not NoneType)
        if len(kinds) > 1:
            return typing.Union[kinds], False  # noqa: UP007 - made of a tuple
        (hint,) = kinds
    origin = typing.get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return hint, True
    if isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, tuple):
        return typing.get_args(hint)[0], True
    return hint, False


def _as_items(title: str, value: Any) -> Sequence[Any]:
    """Return the items of a list; a single text or path counts as a list of one."""
    if isinstance(value, str | os.PathLike):
        return [value]
    if not isinstance(value, Iterable):
        raise OptionError(f"{title} is {value!r}; it takes a list.")
    return list(value)


def _converted(title: str, kind: Any, value: Any) -> Any:
    """Return a value, converted to a type.

    Raises:
        OptionError: it can't be converted.
    """
    try:
        return msgspec.convert(os.fspath(value) if kind is str else value, kind, strict=False, dec_hook=_path)
    except TypeError as error:
        raise OptionError(f"{title} is {value!r}; it takes a text.") from error
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at ")[0]
        raise OptionError(f"{title} is {value!r}. {message[:1].upper()}{message[1:]}.") from error


def _path(_kind: type[Path], value: Any) -> Path:
    """Return a value as a path, the one type of options that msgspec can't convert to by itself."""
    return Path(value)


def counterpart(options: Iterable[Option], name: str) -> str:
    """Return a sentence, after a space, that says what an option of PaddleSlim or Paddle-Lite is here; "" if unknown.

    Args:
        options: those that there are.
        name: the option there, as it was given.
    """
    plain = name.lstrip("-").replace("-", "_")
    called = next((f" It is called {o.key} ({o.flag}) here." for o in options if plain and o.paddle == plain), "")
    return hint(OPTIONS, plain) or called


def _check_keys(values: Mapping[str, Any], options: Sequence[Option]) -> None:
    known = [o.key for o in options]
    for key in values:
        if key in known:
            continue
        found = counterpart(options, key)
        raise OptionError(f"Unknown option {key!r}.{found}" if found else unknown_name("option", key, known))
