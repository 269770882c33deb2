"""How values that are no plain numbers or names are written on the command line."""

from __future__ import annotations

from pipeline.errors import OptionError


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return input name and shape from a text such as `x=1,3,224,224`.

    Raises:
        OptionError: it isn't of that form.
    """
    name, separator, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not separator or not name or not shape or min(shape) < 1:
        raise OptionError(f"--shape {text}: expected NAME=D,D,..., for example x=1,3,224,224.")
    return name, shape
