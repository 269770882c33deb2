"""Reads values of the command line that aren't plain numbers or names."""

from __future__ import annotations

from pipeline.errors import OptionError


def parse_size(text: str) -> int | tuple[int, int]:
    """Return a number of pixels, or (width, height), from a text such as `224` or `320x240`.

    Raises:
        OptionError: the text has another form.
    """
    numbers = text.split("x")
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() and int(n) for n in numbers):
        raise OptionError(f"{text!r} isn't a size. Expected pixels, for example 224, or width and height: 320x240.")
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else int(numbers[0])


def parse_numbers(text: str) -> tuple[float, ...]:
    """Return the numbers in a text such as `0.485,0.456,0.406`.

    Raises:
        OptionError: the text has another form.
    """
    try:
        return tuple(float(n) for n in text.split(","))
    except ValueError as error:
        raise OptionError(f"{text!r} isn't a list of numbers. Expected, for example, 0.485,0.456,0.406.") from error


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape of an input from a text such as `x=1,3,224,224`.

    Raises:
        OptionError: the text has another form.
    """
    name, separator, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not separator or not name or not shape or min(shape) < 1:
        raise OptionError(f"--shape {text}: expected NAME=D,D,..., for example x=1,3,224,224.")
    return name, shape


def parse_number(text: str) -> tuple[str, int | float]:
    """Return a name and a number from a text such as `kept=0.999`.

    Raises:
        OptionError: the text has another form.
    """
    name, separator, value = text.rpartition("=")
    try:
        number = int(value) if value.isdecimal() else float(value)
    except ValueError:
        number, separator = 0, ""
    if not separator or not name:
        raise OptionError(f"{text!r} isn't a name with a number. Expected NAME=VALUE, where VALUE is a number.")
    return name, number
