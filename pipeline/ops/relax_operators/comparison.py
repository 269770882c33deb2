"""Relax's comparisons, logic, and choices by them, and arithmetic that formulas don't have.

Only their references are given: passes assume nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ops.relax_operators.base import RelaxOperator, relax_names


class ValueByValue(RelaxOperator):
    """Comparisons, logic and arithmetic of single values, as NumPy defines them."""

    FUNCTIONS: ClassVar[Mapping[str, Callable[..., Array]]] = {
        "acos": np.arccos,
        "acosh": np.arccosh,
        "asin": np.arcsin,
        "asinh": np.arcsinh,
        "atan": np.arctan,
        "atanh": np.arctanh,
        "bitwise_and": np.bitwise_and,
        "bitwise_not": np.invert,
        "bitwise_or": np.bitwise_or,
        "bitwise_xor": np.bitwise_xor,
        "cosh": np.cosh,
        "equal": np.equal,
        "floor_divide": np.floor_divide,
        "floor_mod": np.mod,
        "greater": np.greater,
        "greater_equal": np.greater_equal,
        "isfinite": np.isfinite,
        "isinf": np.isinf,
        "isnan": np.isnan,
        "less": np.less,
        "less_equal": np.less_equal,
        "logical_and": np.logical_and,
        "logical_not": np.logical_not,
        "logical_or": np.logical_or,
        "logical_xor": np.logical_xor,
        "mod": np.fmod,
        "not_equal": np.not_equal,
        "sign": np.sign,
        "sinh": np.sinh,
        "tan": np.tan,
        "where": np.where,
    }

    names = relax_names(" ".join(FUNCTIONS))

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(self.FUNCTIONS[self.name](*arguments), self.output.dtype)
