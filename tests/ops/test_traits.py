"""Operators' traits hold for their references: otherwise passes would change what programs compute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.ir.operator import Operator, Traits
from pipeline.ir.types import TensorType
from pipeline.ops import Add, Conv2d, Conv2dAdd, MatMul, PRelu, QAdd, Requantized, UpsampleConcat, WithHalo, operators
from tests.kernels.examples import Example, examples

Array = npt.NDArray[Any]

SILENT = Traits()

EXAMPLES = {
    name: example
    for name, example in examples().items()
    if all(np.isfinite(a).all() for a in example.arguments if a.dtype == np.float32)
}


def activations(example: Example) -> list[Array]:
    return [a for i, a in enumerate(example.arguments) if i in example.activations]


def constants(example: Example) -> set[int]:
    return set(range(len(example.arguments))) - set(example.activations)


def with_activations(example: Example, values: list[Array]) -> list[Array]:
    found = iter(values)
    return [next(found) if i in example.activations else a for i, a in enumerate(example.arguments)]


def evaluate(example: Example, values: list[Array]) -> Array:
    return example.operator.evaluate(*with_activations(example, values))


def types_of(values: Sequence[Array]) -> list[TensorType]:
    return [TensorType(v.shape, str(v.dtype)) for v in values]


def chosen(trait: str) -> Any:
    """Parametrize a test with the examples of operators that declare a trait."""
    found = {name: e for name, e in EXAMPLES.items() if getattr(e.operator, trait)}
    return pytest.mark.parametrize("example", found.values(), ids=found)


def splittable() -> dict[str, Example]:
    return {n: e for n, e in EXAMPLES.items() if e.operator.splits_batch(types_of(e.arguments), constants(e))}


@pytest.mark.parametrize("example", splittable().values(), ids=splittable())
def test_images_of_a_batch_do_not_mix(example: Example) -> None:
    whole = activations(example)
    other = [np.flip(a) for a in whole]
    batch = evaluate(example, [np.concatenate(pair) for pair in zip(whole, other, strict=True)])
    apart = [evaluate(example, whole), evaluate(example, other)]
    np.testing.assert_array_equal(batch, np.concatenate(apart))


@chosen("elementwise")
def test_elementwise_operators_do_not_care_where_values_lie(example: Example) -> None:
    result = example.operator.evaluate(*example.arguments)
    moved = [np.flip(a).copy() for a in np.broadcast_arrays(*example.arguments)]
    np.testing.assert_array_equal(example.operator.evaluate(*(a.ravel() for a in moved)), np.flip(result).ravel())


@chosen("rowwise")
def test_rows_do_not_mix(example: Example) -> None:
    x, *others = example.arguments
    result = example.operator.evaluate(*example.arguments)
    backwards = example.operator.evaluate(x.reshape(-1, x.shape[-1])[::-1], *others)
    np.testing.assert_array_equal(backwards, result.reshape(-1, result.shape[-1])[::-1])


@chosen("moves_values")
def test_moved_values_lie_between_those_they_come_from(example: Example) -> None:
    (x,) = example.arguments
    result, around = example.operator.evaluate(x), getattr(example.operator, "value", x.flat[0])
    assert min(x.min(), around) <= result.min()
    assert result.max() <= max(x.max(), around)


def bounded() -> dict[str, Example]:
    """Return all examples, and those whose operators can write a halo also with one."""
    with_halo = {
        f"{name}, with a halo": dataclasses.replace(e, operator=e.operator.with_halo((1, 0, 2, 1), 1.0))
        for name, e in EXAMPLES.items()
        if isinstance(e.operator, WithHalo)
    }
    return EXAMPLES | with_halo


@pytest.mark.parametrize("least", [-1000.0, 0.0, 2.0])
@pytest.mark.parametrize("example", bounded().values(), ids=bounded())
def test_no_result_is_below_its_bound(example: Example, least: float) -> None:
    raised = [np.maximum(a, least).astype(a.dtype) for a in activations(example)]
    # Only the bounds of activations are used.
    bounds = [float(a.min()) for a in raised]
    known = iter(bounds)
    everywhere = [next(known) if i in example.activations else -math.inf for i in range(len(example.arguments))]
    assert evaluate(example, raised).min() >= example.operator.lower_bound(*everywhere)


@pytest.mark.parametrize("name", sorted(operators()))
def test_only_operators_that_sum_products_count_them(name: str) -> None:
    operator = operators()[name]
    assert operator.sums_products == (operator.multiply_adds is not Traits.multiply_adds)


def test_an_operator_that_says_nothing_of_itself_is_not_assumed_to_do_anything() -> None:
    image = TensorType((2, 4, 4, 3), "float32")
    assert not any(getattr(SILENT, trait) for trait in ("elementwise", "rowwise", "moves_values", "sums_products"))
    assert not SILENT.splits_batch([image], ())
    assert SILENT.lower_bound(0.0) == -math.inf
    assert SILENT.overflow_reason(image) is not None
    with pytest.raises(NotImplementedError, match="no NumPy reference"):
        SILENT.evaluate(np.zeros(1))


def test_rows_of_a_matrix_are_no_batch() -> None:
    matrix = TensorType((4, 4), "float32")
    assert not MatMul().splits_batch([matrix, matrix], ())
    assert MatMul().splits_batch([TensorType((2, 4, 4), "float32")] * 2, ())


@pytest.mark.parametrize("operator", [Add(), QAdd(), UpsampleConcat((1, 1, 1, 1))], ids=lambda o: o.name)
def test_a_batch_of_constants_stays_together(operator: Operator) -> None:
    image = TensorType((2, 4, 4, 3), "float32")
    assert operator.splits_batch([image, image], ())
    assert not operator.splits_batch([image, image], {1})


def test_a_batch_of_kernels_is_no_batch_of_images() -> None:
    image, kernel, bias = (TensorType(s, "float32") for s in ((2, 4, 4, 3), (2, 1, 1, 3), (2,)))
    assert Conv2d().splits_batch([image, kernel, bias], {1, 2})
    assert not Conv2d().splits_batch([image, kernel, bias], {2}), "as many output channels as images"
    assert not Conv2d().splits_batch([image, kernel, bias], {0, 2})
    assert Conv2dAdd().splits_batch([image, kernel, bias, image], {1, 2})
    assert not Conv2dAdd().splits_batch([image, kernel, bias, image], {1, 2, 3})


def test_a_constant_that_all_images_share_does_not_keep_them_together() -> None:
    image, row = TensorType((2, 4, 2), "float32"), TensorType((2,), "float32")
    assert PRelu().splits_batch([image, row], {1})
    assert not Add().splits_batch([image, row], ()), "its axis is as long as the batch, but isn't it"


def test_a_class_is_known_by_its_name_and_two_cannot_have_the_same() -> None:
    assert Requantized not in operators().values(), "it has no name"
    with pytest.raises(TypeError, match=r"both named nn\.add"):
        type("Other", (Operator,), {"name": "nn.add"})
