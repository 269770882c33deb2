"""`nn.matmul` and `qnn.matmul`: batches of matrix products of two activations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import MatMul, QMatMul
from tests.kernels.tensors import (
    QUANTIZED_VALUES,
    SEEDS,
    Array,
    assert_close,
    assert_exact,
    quantized_values,
    requantization,
)


@dataclass(frozen=True)
class Product:
    """Shapes of a matrix product."""

    a_batch: tuple[int, ...]
    b_batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    transpose_b: bool = False

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        b = (self.columns, self.depth) if self.transpose_b else (self.depth, self.columns)
        return (*self.a_batch, self.rows, self.depth), (*self.b_batch, *b)


@st.composite
def products(draw: st.DrawFn) -> Product:
    full = draw(st.lists(st.integers(1, 3), max_size=2))
    a_batch, b_batch = (tuple(1 if draw(st.booleans()) else n for n in full) for _ in range(2))
    sizes = (draw(st.one_of(st.integers(1, 9), st.integers(1, 70))) for _ in range(3))
    return Product(a_batch, b_batch[draw(st.integers(0, len(full))) :], *sizes, draw(st.booleans()))


PRODUCTS = {
    "scores of attention": Product((1, 8), (1, 8), 40, 15, 40, transpose_b=True),
    "mixing of values": Product((1, 8), (1, 8), 40, 40, 15),
    "vision transformer": Product((3,), (3,), 197, 64, 197, transpose_b=True),
    "one matrix for all": Product((2, 3), (), 17, 33, 65),
    "one row": Product((2,), (2,), 1, 64, 50),
    "one number": Product((2,), (2,), 1, 1, 1),
}


@given(
    case=products(),
    fields=requantization(),
    zero_points=st.tuples(QUANTIZED_VALUES, QUANTIZED_VALUES),
    multiplier=st.sampled_from([2.0**-8, 2.0**-12, 0.0017]),
    output_dtype=st.sampled_from(["uint8", "float32"]),
    seed=SEEDS,
)
def test_integers(
    isa_name: str,
    case: Product,
    fields: dict[str, int],
    zero_points: tuple[int, int],
    multiplier: float,
    output_dtype: str,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    operator = QMatMul(
        **fields,
        transpose_b=case.transpose_b,
        a_zero_point=zero_points[0],
        b_zero_point=zero_points[1],
        multiplier=multiplier,
        output_dtype=output_dtype,
    )
    assert_exact(isa_name, operator, *(quantized_values(random, *s) for s in case.shapes()), activations=2)


@pytest.mark.parametrize("zero_points", [(0, 128), (131, 0), (77, 120)], ids=str)
def test_integers_of_real_networks(isa_name: str, zero_points: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for case in PRODUCTS.values():
        operator = QMatMul(
            output_zero_point=110,
            transpose_b=case.transpose_b,
            a_zero_point=zero_points[0],
            b_zero_point=zero_points[1],
            multiplier=0.0011,
        )
        assert_exact(isa_name, operator, *(quantized_values(random, *s) for s in case.shapes()), activations=2)


def test_the_largest_sums_fit_32_bits(isa_name: str) -> None:
    for a_zero_point, b_zero_point in itertools.product((0, 255), repeat=2):
        zero_points = {"a_zero_point": a_zero_point, "b_zero_point": b_zero_point}
        operator = QMatMul(**zero_points, multiplier=2.0**-3, output_dtype="float32")
        a = np.full((3, QMatMul.MAX_DEPTH), 255 - a_zero_point, "uint8")
        b = np.full((QMatMul.MAX_DEPTH, 20), 255 - b_zero_point, "uint8")
        assert_exact(isa_name, operator, a, b, activations=2)


def assert_product_is_close(isa_name: str, case: Product, a: Array, b: Array) -> None:
    assert_close(isa_name, MatMul(case.transpose_b), a, b, activations=2, rtol=1e-5, atol=1e-5)


@given(case=products(), seed=SEEDS)
def test_floats(isa_name: str, case: Product, seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_product_is_close(isa_name, case, *(random.standard_normal(s).astype("float32") for s in case.shapes()))


def test_floats_of_real_networks(isa_name: str) -> None:
    random = np.random.default_rng(0)
    for case in PRODUCTS.values():
        assert_product_is_close(isa_name, case, *(random.standard_normal(s).astype("float32") for s in case.shapes()))
