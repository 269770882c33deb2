"""Random tensors and attributes of the memory-bound kernels, and the comparison that all their tests end in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from pipeline.dialect.attributes import Attributes
from pipeline.reference.operators import evaluate
from tests.kernels.harness import make_operation, run_kernel
from tests.kernels.instruction_sets import distinct

Array = npt.NDArray[Any]

Frame = tuple[int, int, int, int]

FRAMES = st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 2)] * 4)

every_vector_length = pytest.mark.parametrize("isa_name", distinct(lambda isa: (isa.lanes, isa.saturate_vectors)))
"""All that distinguishes instruction sets in kernels that don't multiply matrices: vectors, and how they narrow."""

CODES = st.integers(0, 255)
SEEDS = st.integers(0, 2**32 - 1)
CHANNELS = st.one_of(st.integers(1, 20), st.integers(1, 150))
"""Less than a vector, about a vector, and several vectors with a rest."""


def codes(random: np.random.Generator, *shape: int) -> Array:
    """Return uint8 values; the extremes are likely."""
    extremes = random.choice(np.array([0, 1, 127, 128, 254, 255], "uint8"), shape)
    return np.where(random.random(shape) < 0.3, extremes, random.integers(0, 256, shape)).astype("uint8")


def floats(random: np.random.Generator, *shape: int) -> Array:
    """Return finite float32 values of all magnitudes that matter to 8 bits."""
    return (random.standard_normal(shape) * np.exp2(random.integers(-3, 10, shape))).astype("float32")


@st.composite
def requantization(draw: st.DrawFn) -> dict[str, int]:
    """Draw the fields of `Requantized`."""
    low, high = sorted(draw(st.tuples(CODES, CODES)))
    return {"output_zero_point": draw(CODES), "output_min": low, "output_max": high}


def assert_exact(isa_name: str, attrs: Attributes, *arguments: Array, activations: int = 1) -> None:
    """Assert that the selected kernel's result is the reference's; the first `activations` arguments vary at run time.

    Sign bits of zeros and payloads of NaN aren't compared, everything else is.
    """
    operation = make_operation(attrs, *arguments, activations=activations)
    result = run_kernel(operation, isa_name, *arguments)
    np.testing.assert_array_equal(result, evaluate(attrs, *arguments))
