"""Records: what files contain, declared as classes. Each field has a type and limits, and an unknown key is an error.

msgspec converts and checks the values. Every process that runs a library imports it, which takes 6 ms; pydantic would
take 20 (`python -X importtime`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import msgspec.inspect

from pipeline.errors import PipelineError, unknown_name
from pipeline.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

R = TypeVar("R")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, made from keyword arguments alone, unknown keys refused."""


def read_json(path: Path, kind: type[R], what: str, error: type[PipelineError]) -> R:
    """Return a JSON file's content as a record.

    Args:
        path: the file.
        kind: the record's class.
        what: what messages call the file, such as "tuning database".
        error: the class of errors to raise.

    Raises:
        PipelineError: an `error`: the file can't be read, isn't JSON, or doesn't fit the class; the message says where.
    """
    text = read_text(path, what, error)
    try:
        return msgspec.json.decode(text, type=kind)
    # JSON that is nested too deeply raises a RecursionError.
    except (msgspec.DecodeError, RecursionError) as problem:
        raise error(f"The {what} {path} is wrong. {_sentence(problem, kind)}") from problem


def read_toml(path: Path, kind: type[R], what: str, error: type[PipelineError], **more: object) -> R:
    """Return a TOML file's content as a record; see `read_json`.

    Args:
        path: the file.
        kind: the record's class.
        what: what messages call the file, such as "target file".
        error: the class of errors to raise.
        more: values of fields that aren't in the file.
    """
    return convert(path, parse_toml(path, what, error) | more, kind, what, error)


def parse_toml(path: Path, what: str, error: type[PipelineError]) -> dict[str, object]:
    """Return a TOML file's content as a dictionary, without checking it; see `read_toml`."""
    try:
        return tomllib.loads(read_text(path, what, error))
    except tomllib.TOMLDecodeError as problem:
        raise error(f"The {what} {path} isn't TOML: {problem}.") from problem


def convert(path: Path, values: dict[str, object], kind: type[R], what: str, error: type[PipelineError]) -> R:
    """Return the content of a file as a record; see `read_json`."""
    try:
        return msgspec.convert(values, kind, dec_hook=_convert_path)
    except (msgspec.ValidationError, RecursionError) as problem:
        raise error(f"The {what} {path} is wrong. {_sentence(problem, kind)}") from problem


def _convert_path(kind: type[Any], value: object) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"Records can't hold {kind.__name__}")


def to_json(record: msgspec.Struct) -> str:
    """Return a record as JSON text that people can read and edit: one line for each value."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2).decode("utf-8") + "\n"


def _sentence(problem: Exception, kind: type[Any]) -> str:
    """Return msgspec's message as a sentence that begins with the key: `linker.page_size` for `$.linker.page_size`."""
    message, _, place = str(problem).partition(" - at `$.")
    place = place.rstrip("`")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
        place, message = (
            ".".join(filter(None, (place, unknown[1]))),
            unknown_name("key", unknown[1], _keys(kind, place)),
        )
    sentence = message if message.endswith(("?", ".")) else f"{message}."
    return f"{place}: {sentence}" if place else sentence


def _keys(kind: type[Any], place: str) -> list[str]:
    """Return the known keys at a place within a record, such as `linker` or `tiles[...]`."""
    found: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(kind)]
    for step in filter(None, re.split(r"[.\[]", place)):
        found = [inner for outer in found for inner in _within(outer, step)]
    return sorted(field.encode_name for each in found for field in getattr(each, "fields", ()))


def _within(outer: msgspec.inspect.Type, step: str) -> list[msgspec.inspect.Type]:
    """Return the types that a field or item of a type may have; there are several if it is a union."""
    if isinstance(outer, msgspec.inspect.StructType):
        inner = [field.type for field in outer.fields if field.encode_name == step]
    elif isinstance(outer, msgspec.inspect.DictType):
        inner = [outer.value_type]
    else:
        inner = [outer.item_type] if hasattr(outer, "item_type") else []
    return [t for each in inner for t in (each.types if isinstance(each, msgspec.inspect.UnionType) else (each,))]
