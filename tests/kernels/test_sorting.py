"""`nn.sort_order`: a stable sort of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import ops
from tests.kernels.harness import make_operation
from tests.kernels.tensors import assert_exact
from tests.properties import examples


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint8"])
@given(st.integers(1, 4), st.integers(1, 70), st.booleans(), st.integers(0, 2**32))
@examples(4)
def test_rows_are_sorted_and_equal_values_keep_their_order(
    dtype: str, rows: int, length: int, descending: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 1 + length // 2, (rows, length)).astype(dtype)
    count = int(random.integers(1, length + 1))
    operator = ops.SortOrder(count, descending)
    sign = -1 if descending else 1
    expected = [sorted(range(length), key=lambda i: (sign * int(row[i]), i))[:count] for row in x]
    assert_exact("portable", operator, x, expected=np.array(expected))
    np.testing.assert_array_equal(operator.evaluate(x), expected)


@pytest.mark.parametrize(("descending", "expected"), [(False, [3, 0, 4, 2, 1, 5]), (True, [1, 5, 2, 0, 4, 3])])
def test_not_a_number_is_the_largest(descending: bool, expected: list[int]) -> None:
    x = np.array([[0, np.nan, np.inf, -np.inf, -0.0, np.nan]], "float32")
    operator = ops.SortOrder(6, descending)
    assert_exact("portable", operator, x, expected=np.array([expected]))
    np.testing.assert_array_equal(operator.evaluate(x), [expected])


def test_long_rows_are_sorted_in_parallel() -> None:
    x = np.random.default_rng(0).standard_normal((70, 3000)).astype("float32")
    assert_exact("portable", ops.SortOrder(3000), x, expected=np.argsort(x, axis=-1, kind="stable"))


def test_a_row_has_no_more_values_than_it_has() -> None:
    with pytest.raises(ValueError, match="it must be from 1 to the length of a row, 3"):
        make_operation(ops.SortOrder(4), np.zeros((2, 3), "float32"))
