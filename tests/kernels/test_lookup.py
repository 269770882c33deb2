"""`qnn.lookup`: as loads, and as shuffles where the instruction set has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels import registry
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.machine import Machine
from pipeline.ops import QLookup
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import compile_target, distinct
from tests.kernels.tensors import SEEDS, assert_exact, quantized_values

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)

every_kernel = pytest.mark.parametrize(
    "isa_name", distinct(lambda isa: (isa.lanes, isa.saturate_vectors, isa.table_vectors))
)


@every_kernel
@given(shape=SHAPES, seed=SEEDS)
def test_every_value_is_replaced(isa_name: str, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, QLookup(), quantized_values(random, *shape), quantized_values(random, 256))


@every_kernel
@pytest.mark.parametrize("length", [256, 321, 65_536, 70_001])
def test_long_tensors(isa_name: str, length: int) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.arange(256, dtype="uint8"), quantized_values(random, length - 256)])
    assert_exact(isa_name, QLookup(), x, quantized_values(random, 256))


@pytest.mark.parametrize(
    ("isa_name", "instruction"),
    [("avx2", "vpshufb"), ("avx512", "vpshufb"), ("avx512_vbmi", "vperm"), ("neon", "tbx")],
)
def test_long_tensors_are_shuffled_and_short_ones_loaded(isa_name: str, instruction: str) -> None:
    isa, table = instruction_set(isa_name), np.zeros(256, "uint8")
    short, long = (make_operation(QLookup(), np.zeros(n, "uint8"), table) for n in (255, 256))
    assert not registry.select(short, Machine(isa)).requires
    assert instruction in assembly(generate(long, isa), compile_target(isa_name))
