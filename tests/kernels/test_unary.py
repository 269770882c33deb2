"""`nn.unary`: close to NumPy for every function of one value."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.dialect import attributes as op
from pipeline.dialect import pointwise
from pipeline.reference.operators import evaluate
from tests.kernels.harness import make_operation, run_kernel


def test_exponential_from_end_to_end_of_its_range(isa_name: str) -> None:
    attrs = op.Unary(expression=pointwise.write(["exp", "x"]))
    x = np.linspace(-87.3, 88.7, 100_001).astype("float32")
    result = run_kernel(make_operation(attrs, x), isa_name, x)
    np.testing.assert_allclose(result, np.exp(x.astype("float64")), rtol=3e-7)


def test_exponential_beyond_its_range(isa_name: str) -> None:
    attrs = op.Unary(expression=pointwise.write(["exp", "x"]))
    x = np.array([np.inf, 1000, 89, -104, -1000, -np.inf, np.nan, 0], "float32")
    result = run_kernel(make_operation(attrs, x), isa_name, x)
    np.testing.assert_array_equal(result, np.array([np.inf, np.inf, np.inf, 0, 0, 0, np.nan, 1], "float32"))


@pytest.mark.parametrize("function", sorted(pointwise.FUNCTIONS))
def test_functions_of_one_value(isa_name: str, function: str) -> None:
    operands = ["x"] + [1.5] * (pointwise.FUNCTIONS[function][0] - 1)
    attrs = op.Unary(expression=pointwise.write([function, *operands]))
    x = np.linspace(0.1, 4, 77).astype("float32")
    result = run_kernel(make_operation(attrs, x), isa_name, x)
    np.testing.assert_allclose(result, evaluate(attrs, x), rtol=1e-5, atol=1e-6)
