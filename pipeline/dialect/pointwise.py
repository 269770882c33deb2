"""Functions of one value, as expressions: what `nn.unary` computes, and what 8-bit tables are filled from.

An expression is the variable `"x"`, a number, or `[function, operand, ...]`; programs carry it as
JSON text. Hard-swish:

    ["divide", ["multiply", "x", ["minimum", ["maximum", ["add", "x", 3.0], 0.0], 6.0]], 6.0]
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Expression = str | float | list[Any]
"""`"x"`, a number, or a list of a function's name and its operands."""

_erf = np.vectorize(math.erf, otypes=["float64"])

FUNCTIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "abs": (1, np.abs),
    "add": (2, np.add),
    "ceil": (1, np.ceil),
    "cos": (1, np.cos),
    "divide": (2, np.divide),
    "erf": (1, _erf),
    "exp": (1, np.exp),
    "floor": (1, np.floor),
    "log": (1, np.log),
    "maximum": (2, np.maximum),
    "minimum": (2, np.minimum),
    "multiply": (2, np.multiply),
    "negative": (1, np.negative),
    "power": (2, np.power),
    "round": (1, np.rint),
    "rsqrt": (1, lambda v: 1.0 / np.sqrt(v)),
    "sigmoid": (1, lambda v: 1.0 / (1.0 + np.exp(-v))),
    "sin": (1, np.sin),
    "sqrt": (1, np.sqrt),
    "subtract": (2, np.subtract),
    "tanh": (1, np.tanh),
}
"""Every function by name: how many operands it takes, and its NumPy definition."""


def parse(text: str) -> Expression:
    """Return the expression written as JSON.

    Raises:
        ValueError: a function is unknown or has a wrong number of operands.
    """
    expression: Expression = json.loads(text)
    _check(expression)
    return expression


def write(expression: Expression) -> str:
    """Return an expression as JSON text."""
    return json.dumps(expression, separators=(",", ":"))


def evaluate(expression: Expression, x: Array) -> Array:
    """Return the expression's value for each element of `x`, in x's precision; outside a function's domain, NaN."""
    with np.errstate(all="ignore"):
        return np.asarray(_evaluate(expression, x), x.dtype)


def _evaluate(expression: Expression, x: Array) -> Any:
    if isinstance(expression, str):
        return x
    if isinstance(expression, int | float):
        return x.dtype.type(expression)
    function, *operands = expression
    return FUNCTIONS[function][1](*(_evaluate(o, x) for o in operands))


def _check(expression: Any) -> None:
    if expression == "x" or (isinstance(expression, int | float) and not isinstance(expression, bool)):
        return
    if not isinstance(expression, list) or not expression or expression[0] not in FUNCTIONS:
        raise ValueError(f"Not a function of one value: {expression!r}")
    function, *operands = expression
    if len(operands) != FUNCTIONS[function][0]:
        raise ValueError(f"{function} takes {FUNCTIONS[function][0]} operands, got {len(operands)}")
    for operand in operands:
        _check(operand)
