"""`qnn.lookup`: as loads, and as shuffles where the instruction set has them."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialect.attributes import QLookup
from pipeline.kernels import registry
from pipeline.kernels.isa import instruction_set
from tests.kernels.harness import CPUS, assembly, generate, make_operation
from tests.kernels.tensors import SEEDS, assert_exact, codes

SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)


every_kernel = pytest.mark.parametrize("isa_name", ["portable", "sse41", "avx2", "avx512", "avx512_vbmi"])


@every_kernel
@given(shape=SHAPES, seed=SEEDS)
def test_every_value_is_replaced(isa_name: str, shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    assert_exact(isa_name, QLookup(), codes(random, *shape), codes(random, 256))


@every_kernel
@pytest.mark.parametrize("length", [256, 321, 65_536, 70_001])
def test_long_tensors(isa_name: str, length: int) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.arange(256, dtype="uint8"), codes(random, length - 256)])
    assert_exact(isa_name, QLookup(), x, codes(random, 256))


@pytest.mark.parametrize(
    ("isa_name", "triple", "cpu", "instruction"),
    [
        ("avx2", "x86_64-linux-gnu", CPUS["avx2"], "vpshufb"),
        ("avx512", "x86_64-linux-gnu", CPUS["avx512"], "vpshufb"),
        ("avx512_vbmi", "x86_64-linux-gnu", CPUS["avx512_vbmi"], "vperm"),
        ("neon", "aarch64-linux-gnu", "cortex-a53", "tbx"),
    ],
)
def test_long_tensors_are_shuffled_and_short_ones_loaded(
    isa_name: str, triple: str, cpu: str, instruction: str
) -> None:
    isa, table = instruction_set(isa_name), np.zeros(256, "uint8")
    short, long = (make_operation(QLookup(), np.zeros(n, "uint8"), table) for n in (255, 256))
    assert registry.select(short, isa).isa == "portable"
    text = assembly(generate(long, isa), tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu}))
    assert instruction in text
