"""Formulas of functions of one value, in which equal steps are computed once."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ops.formula import Formula, X, apply


def hard_swish(x: Formula) -> Formula:
    limited = apply("minimum", apply("maximum", apply("add", x, 3.0), 0.0), 6.0)
    return apply("divide", apply("multiply", x, limited), 6.0)


def test_a_formula_is_written_step_by_step() -> None:
    expected = '[["add","x",3.0],["maximum","#0",0.0],["minimum","#1",6.0],["multiply","x","#2"],["divide","#3",6.0]]'
    assert hard_swish(X).to_json() == expected
    assert Formula.parse(expected) == hard_swish(X)


def test_a_formula_is_as_long_as_what_it_is_made_of() -> None:
    formula = X
    for _ in range(12):
        formula = hard_swish(formula)
    assert len(formula.steps) == 12 * 5


def test_chains_are_evaluated_step_by_step() -> None:
    x = np.linspace(-4, 4, 33)
    formula, expected = X, x
    for _ in range(6):
        formula = hard_swish(formula)
        expected = expected * np.clip(expected + 3, 0, 6) / 6
    np.testing.assert_array_equal(Formula.parse(formula.to_json())(x), expected)


def test_what_is_the_same_is_computed_once() -> None:
    sigmoid = apply("sigmoid", X)
    assert len(apply("multiply", sigmoid, apply("sigmoid", X)).steps) == 2


def test_zeros_of_both_signs_stay_apart() -> None:
    formula = apply(
        "add", apply("divide", 1.0, apply("multiply", X, 0.0)), apply("divide", 1.0, apply("multiply", X, -0.0))
    )
    assert np.isnan(formula(np.ones(1)))


def test_a_value_computed_before_may_be_the_result() -> None:
    square = apply("multiply", X, X)
    rest = apply("add", square, 1.0)
    assert apply("multiply", X, X)(np.array([3.0])) == 9
    assert apply("subtract", rest, square)(np.array([3.0])) == 1


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_numbers_are_kept(value: float) -> None:
    formula = Formula.parse(apply("minimum", X, value).to_json())
    np.testing.assert_array_equal(formula(np.array([2.0])), min(2.0, value))
