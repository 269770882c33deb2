"""`nn.unary`: close to NumPy for every function of one value."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import ops
from pipeline.ops.formula import FUNCTIONS, X, apply
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import runnable
from tests.kernels.tensors import assert_close, assert_exact, every_vector_length


@every_vector_length
def test_exponential_from_end_to_end_of_its_range(isa_name: str) -> None:
    operator = ops.Unary.of(apply("exp", X))
    x = np.linspace(-87.3, 88.7, 100_001).astype("float32")
    assert_close(isa_name, operator, x, rtol=3e-7, expected=np.exp(x.astype("float64")))


@every_vector_length
def test_exponential_beyond_its_range(isa_name: str) -> None:
    operator = ops.Unary.of(apply("exp", X))
    x = np.array([np.inf, 1000, 89, -104, -1000, -np.inf, np.nan, 0], "float32")
    assert_exact(isa_name, operator, x, expected=np.array([np.inf, np.inf, np.inf, 0, 0, 0, np.nan, 1], "float32"))


@every_vector_length
def test_functions_of_one_value(isa_name: str) -> None:
    x = np.linspace(0.1, 4, 77).astype("float32")
    for name, (operands, *_) in FUNCTIONS.items():
        formula = apply(name, X, *[1.5] * (operands - 1))
        assert_close(isa_name, ops.Unary.of(formula), x, rtol=1e-5, atol=1e-6)


@every_vector_length
@pytest.mark.parametrize("function", ["erf", "exp", "sigmoid", "tanh"])
def test_polynomials_hold_for_all_values(isa_name: str, function: str) -> None:
    operator = ops.Unary.of(apply(function, X))
    x = np.concatenate([np.linspace(-110, 100, 20_001), np.linspace(-1, 1, 2001), [np.inf, -np.inf, np.nan]])
    x = x.astype("float32")
    with np.errstate(over="ignore"):
        exact = operator.formula(x.astype("float64"))
        expected = exact.astype("float32")
    assert_close(isa_name, operator, x, rtol=2e-6, atol=1e-38, expected=expected)


@every_vector_length
def test_a_square_is_a_product(isa_name: str) -> None:
    operator = ops.Unary(expression='[["subtract","x",1.0],["power","#0",2.0]]')
    x = np.linspace(-4, 4, 77).astype("float32")
    assert_exact(isa_name, operator, x, expected=(x - 1) * (x - 1))


@pytest.mark.parametrize("function", ["erf", "sigmoid", "tanh"])
def test_code_grows_by_the_same_for_each_step(function: str) -> None:
    machine = runnable("portable")

    def size_of(steps: int) -> int:
        formula = X
        for _ in range(steps):
            formula = apply("multiply", formula, apply(function, formula))
        operation = make_operation(ops.Unary.of(formula), np.zeros(64, "float32"))
        return len(assembly(generate(operation, machine.isa), machine.target))

    one, two, three = (size_of(steps) for steps in (5, 10, 15))
    assert three - two < 2 * (two - one)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("function", "oracle"), [("maximum", np.maximum), ("minimum", np.minimum)])
def test_limits_keep_what_is_not_a_number(isa_name: str, function: str, oracle: np.ufunc, first: bool) -> None:
    operands = (0.5, X) if first else (X, 0.5)
    operator = ops.Unary.of(apply(function, *operands))
    x = np.array([np.nan, np.inf, -np.inf, 0, 1, 0.5] * 7, "float32")
    assert_exact(isa_name, operator, x, expected=oracle(x, np.float32(0.5)))
