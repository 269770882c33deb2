"""Relax's functions of single values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ops.formula import FUNCTIONS, Formula, X, apply, lower_bound
from pipeline.ops.relax_operators.base import RelaxOperator, relax_names


class Elementwise(RelaxOperator):
    """Base of operators that compute each value of the result from one value of each operand."""

    elementwise = True

    def formula(self, *operands: Formula | float) -> Formula | None:
        """Return the operator, applied to these operands, as a formula; None if it can't be written as one."""
        raise NotImplementedError

    def lower_bound(self, *bounds: float) -> float:
        """Return the bound of the formula, if there is one operand."""
        formula = self.formula(X) if len(bounds) == 1 else None
        return -math.inf if formula is None else formula.fold(bounds[0], float, lower_bound)


class Function(Elementwise):
    """The functions that formulas are made of, `formula.FUNCTIONS`."""

    names = relax_names(" ".join(FUNCTIONS))

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the function of these operands."""
        return apply(self.name, *operands)

    def lower_bound(self, *bounds: float) -> float:
        """Return the function's own bound."""
        return lower_bound(self.name, *bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(FUNCTIONS[self.name][1](*arguments), self.output.dtype)


def _gated(x: Formula | float, gate: Formula) -> Formula:
    return apply("multiply", apply("multiply", x, 0.5), apply("add", gate, 1.0))


def _gelu(x: Formula | float) -> Formula:
    return _gated(x, apply("erf", apply("multiply", x, 0.7071067811865476)))


def _gelu_tanh(x: Formula | float) -> Formula:
    cube = apply("multiply", apply("multiply", x, x), x)
    inner = apply("multiply", apply("add", x, apply("multiply", cube, 0.044715)), 0.7978845608028654)
    return _gated(x, apply("tanh", inner))


class DerivedFunction(Elementwise):
    """Functions of one value that are composed of several functions of `Function`."""

    FORMULAS: ClassVar[Mapping[str, Callable[[Formula | float], Formula]]] = {
        "nn.gelu": _gelu,
        "nn.gelu_tanh": _gelu_tanh,
        "nn.relu": lambda x: apply("maximum", x, 0.0),
        "nn.relu6": lambda x: apply("minimum", apply("maximum", x, 0.0), 6.0),
        "nn.silu": lambda x: apply("multiply", x, apply("sigmoid", x)),
        "square": lambda x: apply("multiply", x, x),
    }
    REFERENCES: ClassVar[Mapping[str, Callable[[Array], Array]]] = {
        "nn.gelu": lambda x: x * 0.5 * (1 + FUNCTIONS["erf"][1](x / math.sqrt(2))),
        "nn.gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "nn.relu": lambda x: np.maximum(x, 0),
        "nn.relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
        "nn.silu": lambda x: x / (1 + np.exp(-x)),
        "square": np.square,
    }

    names = relax_names(" ".join(FORMULAS))

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the function of one operand."""
        return self.FORMULAS[self.name](*operands)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(self.REFERENCES[self.name](*arguments), self.output.dtype)


class LeakyRelu(Elementwise):
    """`x` where it is positive, `alpha * x` elsewhere."""

    names = relax_names("nn.leakyrelu")

    def formula(self, *operands: Formula | float) -> Formula:
        """Return `max(x, 0) + alpha * min(x, 0)`."""
        (x,) = operands
        negative = apply("multiply", apply("minimum", x, 0.0), float(self.attribute("alpha")))
        return apply("add", apply("maximum", x, 0.0), negative)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        (x,) = arguments
        return np.asarray(np.where(x > 0, x, x * np.float32(self.attribute("alpha"))))


class Clip(Elementwise):
    """`min(max(x, low), high)`."""

    names = relax_names("clip")

    @property
    def limits(self) -> tuple[float, float]:
        """The lower and the upper limit."""
        low, high = (float(limit.value) for limit in self.call.args[1:])
        return low, high

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the limited operand."""
        return apply("minimum", apply("maximum", operands[0], self.limits[0]), self.limits[1])

    def evaluate(self, *arguments: Array) -> Array:
        """Return the limited values."""
        low, high = map(np.float32, self.limits)
        return np.asarray(np.minimum(np.maximum(arguments[0], low), high))


class Cast(Elementwise):
    """The same values in another dtype."""

    names = relax_names("astype")

    def formula(self, *operands: Formula | float) -> None:
        """Return None: formulas have one dtype."""

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        with np.errstate(all="ignore"):
            return np.asarray(arguments[0], self.output.dtype)


class Softplus(Elementwise):
    """`log(1 + exp(x))`, computed so that it doesn't overflow."""

    names = relax_names("nn.softplus")

    def formula(self, *operands: Formula | float) -> None:
        """Return None: `log(1 + exp(x))` as a formula would overflow."""

    def lower_bound(self, *bounds: float) -> float:
        """Return 0, as the logarithm's argument is above 1."""
        del bounds
        return 0.0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        return np.asarray(np.logaddexp(arguments[0], 0), self.output.dtype)
