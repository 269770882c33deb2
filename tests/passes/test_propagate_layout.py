"""PropagateLayout: reshapes of deferred permutations."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.passes.float.propagate_layout import _reshaped_order

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5)


@st.composite
def factorizations(draw: st.DrawFn, size: int) -> list[int]:
    """Draw a shape of `size` elements."""
    shape = []
    while size > 1:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        size //= shape[-1]
        shape += [1] * draw(st.integers(0, 1))
    return shape or [1]


@given(data=st.data(), base=SHAPES)
def test_a_reshape_of_a_permutation_is_a_permutation_of_a_reshape(data: st.DataObject, base: list[int]) -> None:
    axes = tuple(data.draw(st.permutations(range(len(base)))))
    target = data.draw(factorizations(math.prod(base)))
    x = np.arange(math.prod(base)).reshape(base)
    order = _reshaped_order(axes, base, target)
    if order is None:
        # In this case, no permutation of whole axes gives the order of the values.
        assert axes != tuple(range(len(base)))
        return
    reshaped = x.reshape([target[a] for a in order]).transpose(np.argsort(order))
    np.testing.assert_array_equal(reshaped, x.transpose(axes).reshape(target))


@given(base=SHAPES, data=st.data())
def test_without_a_permutation_every_reshape_keeps_its_order(base: list[int], data: st.DataObject) -> None:
    target = data.draw(factorizations(math.prod(base)))
    assert _reshaped_order(tuple(range(len(base))), base, target) == tuple(range(len(target)))
