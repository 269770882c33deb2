"""Sums, products and PRelu, in float32 and in 8 bits, with every broadcast that NumPy knows."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.isa import instruction_set, instruction_sets
from pipeline.ops import Add, Multiply, PRelu, QAdd, QHardSwish, QMultiply, QPRelu
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import compile_target
from tests.kernels.tensors import (
    CHANNELS,
    QUANTIZED_VALUES,
    SEEDS,
    assert_exact,
    every_vector_length,
    floats,
    quantized_values,
    requantization,
)

Shape = tuple[int, ...]

CLIPS = st.sampled_from([(None, None), (0.0, None), (0.0, 6.0), (None, 1.0)])
MULTIPLIERS = st.integers(-(2**20), 2**20)
"""Times 255, twice: within 30 bits."""


@st.composite
def operand_shapes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Draw two shapes of up to four axes; each axis is 1 in one of them, or missing, or the same in both."""
    axes = draw(st.lists(st.integers(1, 5), min_size=0, max_size=3))
    full = (*axes, draw(CHANNELS))
    squeezed = tuple(1 if draw(st.booleans()) else n for n in full)
    first = tuple(n if s == 1 or draw(st.booleans()) else 1 for n, s in zip(full, squeezed, strict=True))
    second = squeezed[draw(st.integers(0, len(squeezed))) :] if draw(st.booleans()) else squeezed
    return (second, first) if draw(st.booleans()) else (first, second)


@dataclass(frozen=True)
class Broadcast:
    a: Shape
    b: Shape


BROADCASTS = {
    "residual": Broadcast((1, 28, 28, 96), (1, 28, 28, 96)),
    "squeeze-excite": Broadcast((2, 14, 14, 120), (2, 1, 1, 120)),
    "squeeze-excite, few channels": Broadcast((2, 9, 15, 24), (2, 1, 1, 24)),
    "squeeze-excite, operands swapped": Broadcast((2, 1, 1, 63), (2, 14, 14, 63)),
    "one number": Broadcast((1, 7, 7, 70), (1,)),
    "scalar": Broadcast((1, 7, 7, 70), ()),
    "attention mask": Broadcast((2, 3, 17, 17), (2, 1, 1, 17)),
    "outer": Broadcast((5, 1, 33), (1, 4, 1)),
    "parallel": Broadcast((1, 56, 56, 65), (1, 56, 56, 65)),
    "parallel, per channel": Broadcast((1, 56, 56, 65), (1, 1, 1, 65)),
}


@every_vector_length
@given(shapes=operand_shapes(), clip=CLIPS, seed=SEEDS)
def test_float_sum(
    isa_name: str, shapes: tuple[Shape, Shape], clip: tuple[float | None, float | None], seed: int
) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, Add(*clip), *(floats(random, *s) for s in shapes), activations=2)


@every_vector_length
@given(shapes=operand_shapes(), seed=SEEDS)
def test_float_product(isa_name: str, shapes: tuple[Shape, Shape], seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, Multiply(), *(floats(random, *s) for s in shapes), activations=2)


@every_vector_length
@given(
    shapes=operand_shapes(),
    fields=requantization(),
    zero_points=st.tuples(QUANTIZED_VALUES, QUANTIZED_VALUES),
    multipliers=st.tuples(MULTIPLIERS, MULTIPLIERS),
    shift=st.integers(1, 30),
    seed=SEEDS,
)
def test_integer_sum(
    isa_name: str,
    shapes: tuple[Shape, Shape],
    fields: dict[str, int],
    zero_points: tuple[int, int],
    multipliers: tuple[int, int],
    shift: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    operator = QAdd(
        **fields,
        a_zero_point=zero_points[0],
        b_zero_point=zero_points[1],
        a_multiplier=multipliers[0],
        b_multiplier=multipliers[1],
        shift=shift,
    )
    assert_exact(isa_name, operator, *(quantized_values(random, *s) for s in shapes), activations=2)


@every_vector_length
@given(
    shapes=operand_shapes(),
    fields=requantization(),
    zero_points=st.tuples(QUANTIZED_VALUES, QUANTIZED_VALUES),
    multiplier=st.one_of(st.sampled_from([0.5, 0.25, 2.0**-9, 0.0]), st.floats(1e-6, 100.0)),
    seed=SEEDS,
)
def test_integer_product(
    isa_name: str,
    shapes: tuple[Shape, Shape],
    fields: dict[str, int],
    zero_points: tuple[int, int],
    multiplier: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    operator = QMultiply(**fields, a_zero_point=zero_points[0], b_zero_point=zero_points[1], multiplier=multiplier)
    assert_exact(isa_name, operator, *(quantized_values(random, *s) for s in shapes), activations=2)


@st.composite
def slopes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Draw the shape of x, and one that is broadcast to it."""
    shape = (*draw(st.lists(st.integers(1, 5), max_size=3)), draw(CHANNELS))
    fewer = tuple(1 if draw(st.booleans()) else n for n in shape)
    return shape, fewer[draw(st.integers(0, len(fewer))) :]


@every_vector_length
@given(shapes=slopes(), seed=SEEDS)
def test_float_prelu(isa_name: str, shapes: tuple[Shape, Shape], seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, PRelu(), floats(random, *shapes[0]), floats(random, *shapes[1]))


@every_vector_length
def test_prelu_of_what_is_no_number(isa_name: str) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0], "float32"), (33, 7))
    assert_exact(isa_name, PRelu(), x, np.array([0.0, 0.5, 0.5, 2.0, 2.0, -1.0, -1.0], "float32"))


@every_vector_length
@given(
    shapes=slopes(),
    fields=requantization(),
    zero_point=QUANTIZED_VALUES,
    multiplier=st.one_of(st.sampled_from([0.5, 0.25, 2.0**-9, 0.0]), st.floats(1e-6, 100.0)),
    seed=SEEDS,
)
def test_integer_prelu(
    isa_name: str, shapes: tuple[Shape, Shape], fields: dict[str, int], zero_point: int, multiplier: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    slope = random.choice(np.array([0, 0.25, -0.5, 1, multiplier, -3 * multiplier], "float32"), shapes[1])
    operator = QPRelu(**fields, input_zero_point=zero_point, multiplier=multiplier)
    assert_exact(isa_name, operator, quantized_values(random, *shapes[0]), slope)


@every_vector_length
@given(
    shape=st.sampled_from([(1, 1), (3, 5), (7, 16), (2, 3, 33), (5, 64), (1, 4, 2, 100)]),
    fields=requantization(),
    shift=st.sampled_from([0.0, -2.5, 40.0]),
    seed=SEEDS,
)
def test_hard_swish_of_channels(isa_name: str, shape: Shape, fields: dict[str, int], shift: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    factor = random.uniform(-50, 900, shape[-1]).astype("float32")
    operator = QHardSwish(**fields, shift=shift, fraction_bits=8 if shift else 0, largest=1000.0)
    assert_exact(isa_name, operator, random.normal(0, 5, shape).astype("float32"), factor)


@every_vector_length
def test_broadcasts_of_real_networks(isa_name: str) -> None:
    random = np.random.default_rng(0)
    operator = QMultiply(output_zero_point=30, a_zero_point=128, b_zero_point=3, multiplier=0.011)
    for case in BROADCASTS.values():
        assert_exact(
            isa_name, operator, quantized_values(random, *case.a), quantized_values(random, *case.b), activations=2
        )
        assert_exact(isa_name, Add(0.0, None), floats(random, *case.a), floats(random, *case.b), activations=2)


@every_vector_length
def test_every_pair_of_quantized_values(isa_name: str) -> None:
    a, b = np.arange(256, dtype="uint8").reshape(256, 1), np.arange(256, dtype="uint8").reshape(1, 256)
    product = QMultiply(output_zero_point=128, a_zero_point=128, b_zero_point=0, multiplier=2.0**-7)
    assert_exact(isa_name, product, a, b, activations=2)
    total = QAdd(output_zero_point=100, a_zero_point=7, b_zero_point=128, a_multiplier=700, b_multiplier=-513, shift=10)
    assert_exact(isa_name, total, a, b, activations=2)


@pytest.mark.parametrize("isa_name", instruction_sets())
@pytest.mark.parametrize("channels", [64, 1], ids=["vectors", "scalars"])
def test_products_are_rounded_by_instructions(isa_name: str, channels: int) -> None:
    operator = QMultiply(output_zero_point=30, a_zero_point=128, multiplier=0.011)
    operands = (np.zeros((1, 2, 3, channels), "uint8"), np.zeros((1, 1, 1, channels), "uint8"))
    kernel = generate(make_operation(operator, *operands, activations=2), instruction_set(isa_name))
    text = assembly(kernel, compile_target(isa_name))
    assert re.search(r"\bv?cvt[ps]s2(?:dq|si)\b|\bfrint[inx]\b|\bfcvtns\b", text)
    assert not re.search(r"\b(?:l?l?rint|nearbyint|l?l?round)f?\b", text)
    assert not re.search(r"\bv?fn?m(?:add|sub|l[as])\w*\b", text)
