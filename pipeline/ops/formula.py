"""Formulas of functions of one value: what `nn.unary` computes, and what the tables of `qnn.lookup` are filled from.

A formula is a list of steps; its value is that of the last step. A step is `[function, operand, ...]`. An operand is
the variable `"x"`, a number, or `"#i"`, the value of step i. Programs hold formulas as JSON text. Hard-swish, for
example, is

    [["add", "x", 3.0], ["maximum", "#0", 0.0], ["minimum", "#1", 6.0], ["multiply", "x", "#2"], ["divide", "#3", 6.0]]

Equal steps are written once, so a formula has no more steps than the operators that it was made from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Operand: TypeAlias = "str | float"
"""`"x"`, `"#i"` or a number."""
Step: TypeAlias = "tuple[str, tuple[Operand, ...]]"
"""A function and its operands."""
V = TypeVar("V")

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
"""The functions of steps, by name: the number of operands, and the definition in NumPy."""


def lower_bound(function: str, *bounds: float) -> float:
    """Return a lower bound of a function's values, given lower bounds of its operands; minus infinity is no bound."""
    if function in ("sigmoid", "exp", "abs", "sqrt"):
        return 0.0
    if function == "maximum":
        return max(bounds)
    if function == "minimum":
        return min(bounds)
    if function == "add":
        return sum(bounds)
    if function in ("multiply", "divide") and min(bounds) >= 0:
        return 0.0
    return -math.inf


@dataclass(frozen=True)
class Formula:
    """A function of one value x; without steps, x itself."""

    steps: tuple[Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Formula:
        """Return the formula that a JSON text describes.

        Raises:
            ValueError: a function is unknown or has a wrong number of operands, or an operand isn't one.
        """
        found = json.loads(text)
        if not isinstance(found, list) or not found:
            raise ValueError(f"Not a function of one value: {found!r}")
        return cls(tuple(_checked(step, i) for i, step in enumerate(found)))

    def to_json(self) -> str:
        """Return the formula as JSON text."""
        return json.dumps([[function, *operands] for function, operands in self.steps], separators=(",", ":"))

    def __call__(self, x: Array) -> Array:
        """Return the formula's value for each element of x, computed in x's dtype; NaN outside a function's domain."""
        with np.errstate(all="ignore"):
            return np.asarray(self.fold(x, x.dtype.type, lambda f, *values: FUNCTIONS[f][1](*values)), x.dtype)

    def fold(self, x: V, number: Callable[[float], V], function: Callable[..., V]) -> V:
        """Evaluate the formula over any kind of values: arrays, bounds or other expressions. Each step is visited once.

        Args:
            x: the value of the variable.
            number: returns the value of a number.
            function: returns the value of a step, given the function's name and the values of its operands.
        """
        values: list[V] = []

        def value(operand: Operand) -> V:
            if isinstance(operand, str):
                return x if operand == "x" else values[int(operand[1:])]
            return number(operand)

        for name, operands in self.steps:
            values.append(function(name, *(value(o) for o in operands)))
        return values[-1] if values else x


X = Formula()
"""The formula of the variable itself."""


def apply(function: str, *operands: Formula | float) -> Formula:
    """Return the formula of a function applied to formulas and numbers; equal steps become one."""
    steps: dict[str, Step] = {}
    last = _add(steps, function, [_merge(steps, o) if isinstance(o, Formula) else float(o) for o in operands])
    # The last step may equal an earlier one; what follows that one isn't needed.
    kept = tuple(steps.values())
    return Formula(kept[: int(last[1:]) + 1])


def _merge(steps: dict[str, Step], formula: Formula) -> Operand:
    """Add a formula's steps to `steps`, and return the operand that stands for the formula's value."""
    places: list[str] = []
    for function, operands in formula.steps:
        moved = [places[int(o[1:])] if isinstance(o, str) and o != "x" else o for o in operands]
        places.append(_add(steps, function, moved))
    return places[-1] if places else "x"


def _add(steps: dict[str, Step], function: str, operands: Sequence[Operand]) -> str:
    # Steps are compared as text, in which 0.0 and -0.0 differ.
    key = json.dumps([function, *operands])
    steps.setdefault(key, (function, tuple(operands)))
    return f"#{list(steps).index(key)}"


def _checked(step: Any, index: int) -> Step:
    if not isinstance(step, list) or not step or not isinstance(step[0], str) or step[0] not in FUNCTIONS:
        raise ValueError(f"Not a function of one value: {step!r}")
    function, *operands = step
    if len(operands) != FUNCTIONS[function][0]:
        raise ValueError(f"{function} takes {FUNCTIONS[function][0]} operands, got {len(operands)}")
    earlier = {"x", *(f"#{i}" for i in range(index))}
    for operand in operands:
        if not (isinstance(operand, float) or (isinstance(operand, str) and operand in earlier)):
            raise ValueError(f"Not an operand of step {index}: {operand!r}")
    return function, tuple(operands)
