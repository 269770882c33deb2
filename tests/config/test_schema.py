"""Options: all that follows from their declaration."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Options, description, group, keywords, option, options_of
from pipeline.errors import OptionError


@dataclass(frozen=True)
class Colours(Options):
    colour: str = option("red", "A colour.", choices=("dark_blue", "red"), paddle="color")
    names: Collection[str] | None = option(None, "Names.", flag="--name", unset="all")


@dataclass(frozen=True)
class Extensible(Options):
    shape: str = option("round", "A shape.", choices=("round", "square"), extensible=True)


@dataclass(frozen=True)
class Things(Options):
    colours: Colours = group(Colours)  # noqa: RUF009
    size: int = option(3, "How large.", minimum=1, maximum=9)
    fast: bool = option(True, "Whether to hurry.")
    file: Path | None = option(None, "A file.")  # noqa: RUF009
    shapes: Mapping[str, Sequence[int]] = option({}, "Shapes.")


def test_keys_are_one_flat_list() -> None:
    assert [o.key for o in options_of(Things)] == ["colour", "names", "size", "fast", "file", "shapes"]


def test_flags_follow_from_keys_and_defaults() -> None:
    flags = [o.flag for o in options_of(Things)]
    assert flags == ["--colour", "--name", "--size", "--fast/--no-fast", "--file", "--shapes"]


def test_values_are_given_by_key() -> None:
    made = Things.from_values({"colour": "dark_blue", "size": 4, "file": "a/b"})
    assert made == Things(Colours("dark_blue"), 4, file=Path("a/b"))
    assert Things.from_values({}) == Things()


def test_values_are_laid_over_others() -> None:
    base = Things(Colours("dark_blue", ["a"]), size=9)
    assert Things.from_values({"names": ["b"], "fast": False}, base) == Things(Colours("dark_blue", ["b"]), 9, False)


def test_a_choice_is_taken_in_any_case_and_spelled_as_it_is_known() -> None:
    assert Colours("DARK_Blue").colour == "dark_blue"


def test_what_a_program_adds_to_the_choices_is_taken() -> None:
    (shape,) = options_of(Extensible)
    assert shape.checked("Round") == "round"
    assert shape.checked("Oval") == "Oval"


def test_one_text_is_a_list_of_one() -> None:
    assert Colours(names="ab").names == ("ab",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sise": 1}, "Unknown option 'sise'.*Did you mean 'size'"),
        ({"color": "red"}, "Unknown option 'color'. It is called colour \\(--colour\\) here"),
        ({"colour": "rad"}, "Unknown colour 'rad'. Known: dark_blue, red. Did you mean 'red'"),
        ({"size": 0}, "--size is 0; it must be at least 1"),
        ({"size": 10}, "--size is 10; it must be at most 9"),
        ({"size": "x"}, "--size is 'x'. Expected `int`, got `str`"),
        ({"names": 3}, r"names \(--name\) is 3; it takes a list"),
        ({"names": [3]}, r"names \(--name\) is 3; it takes a text"),
        ({"file": 3}, "--file is 3. [Ee]xpected str"),
        ({"shapes": {"x": ["a"]}}, "--shapes is "),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Things.from_values(values)


def test_a_wrong_value_is_refused_however_the_object_is_made() -> None:
    with pytest.raises(OptionError, match="at least 1"):
        Things(size=-1)


def test_words_say_choices_defaults_and_other_names() -> None:
    assert [description(o) for o in options_of(Colours)] == [
        "A colour. One of dark_blue, red. PaddleSlim: color.",
        "Names. Default: all.",
    ]


def test_a_function_takes_signature_and_docstring_from_the_schema() -> None:
    @keywords(Things)
    def make(first: int, *, second: int = 2, **keys: Any) -> Things:
        """Make things.

        Args:
            first: one.
            second: two.
            **keys: {options}
        """
        return Things.from_values(keys)

    parameters = inspect.signature(make).parameters
    assert list(parameters) == ["first", "second", *(o.key for o in options_of(Things))]
    assert parameters["size"].default == 3
    lines = [line.strip() for line in (make.__doc__ or "").splitlines()]
    assert lines[lines.index("second: two.") + 1] == "colour: A colour. One of dark_blue, red. PaddleSlim: color."
    assert make(1, size=5).size == 5
