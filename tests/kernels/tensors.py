"""Random tensors and attributes, and the comparisons that tests of kernels end in."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from pipeline.ir.types import LARGEST_INT16
from pipeline.ops import Operator
from tests.kernels.harness import check, make_operation
from tests.kernels.instruction_sets import Runnable, distinct

Array = npt.NDArray[Any]

Halo = tuple[int, int, int, int]

HALOS = st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 2)] * 4)

every_vector_length = pytest.mark.parametrize("isa_name", distinct(lambda isa: (isa.lanes, isa.saturate_vectors)))
"""All that distinguishes instruction sets in kernels that don't multiply matrices: vectors, and how they narrow."""

QUANTIZED_VALUES = st.integers(0, 255)
SEEDS = st.integers(0, 2**32 - 1)
CHANNELS = st.one_of(st.integers(1, 20), st.integers(1, 150))
"""Less than a vector, about a vector, and several vectors with a rest."""


def quantized_values(random: np.random.Generator, *shape: int) -> Array:
    """Return quantized values, uint8; the extremes are likely."""
    extremes = random.choice(np.array([0, 1, 127, 128, 254, 255], "uint8"), shape)
    return np.where(random.random(shape) < 0.3, extremes, random.integers(0, 256, shape)).astype("uint8")


def wide_values(random: np.random.Generator, *shape: int) -> Array:
    """Return values of 16 bits; the extremes, and those on both sides of a high byte, are likely."""
    extremes = random.choice(np.array([-LARGEST_INT16, -129, -128, -1, 0, 127, 128, 32_639], "int16"), shape)
    return np.where(random.random(shape) < 0.3, extremes, random.integers(-LARGEST_INT16, 32_640, shape)).astype(
        "int16"
    )


def floats(random: np.random.Generator, *shape: int) -> Array:
    """Return finite float32 values of all magnitudes that matter to 8 bits."""
    return (random.standard_normal(shape) * np.exp2(random.integers(-3, 10, shape))).astype("float32")


@st.composite
def requantization(draw: st.DrawFn) -> dict[str, int]:
    """Draw the fields of `Requantized`."""
    low, high = sorted(draw(st.tuples(QUANTIZED_VALUES, QUANTIZED_VALUES)))
    return {"output_zero_point": draw(QUANTIZED_VALUES), "output_min": low, "output_max": high}


def assert_exact(
    where: str | Runnable,
    operator: Operator,
    *arguments: Array,
    activations: int | Collection[int] = 1,
    expected: Array | None = None,
) -> None:
    """Assert that the selected kernel's result is the reference's.

    Sign bits of zeros and payloads of NaN aren't compared, everything else is.

    Args:
        where: the instruction set, or what runs it.
        operator: which operator.
        arguments: all of them.
        activations: which of them vary at run time, see `make_operation`.
        expected: what takes the reference's place.
    """
    operation = make_operation(operator, *arguments, activations=activations)
    wanted = operator.evaluate(*arguments) if expected is None else expected
    check(where, operation, arguments, wanted, np.testing.assert_array_equal)


def assert_close(
    where: str | Runnable,
    operator: Operator,
    *arguments: Array,
    rtol: float,
    atol: float = 0.0,
    activations: int | Collection[int] = 1,
    expected: Array | None = None,
) -> None:
    """Assert that no value of the selected kernel's differs from the reference's by more than `atol + rtol * value`.

    The other arguments are those of `assert_exact`.
    """
    operation = make_operation(operator, *arguments, activations=activations)
    wanted = operator.evaluate(*arguments) if expected is None else expected
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    check(where, operation, arguments, wanted, compare)
