"""Convolutions of 3x3 by Winograd's transforms: the very results of direct ones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.isa import Capability, InstructionSet, instruction_set
from pipeline.kernels.machine import Machine
from pipeline.kernels.registry import select
from pipeline.kernels.winograd import plan
from pipeline.kernels.winograd.transforms import (
    INVERSE_OF_NINE,
    SHIFT,
    TILE,
    WINDOW,
    in_both_dimensions,
    transform_input,
    transform_output,
    transform_weights,
)
from pipeline.ops import QConv2dAdd
from tests.kernels.convolutions import Convolution, stored_signed
from tests.kernels.harness import assembly, generate, make_operation
from tests.kernels.instruction_sets import compile_target, distinct
from tests.kernels.tensors import HALOS, SEEDS, Halo, assert_exact
from tests.properties import examples

Array = npt.NDArray[Any]

LOWEST, HIGHEST = -128, 127

ISAS = [
    n
    for n in distinct(lambda isa: (isa.has(Capability.WORD_PRODUCTS), isa.lanes, isa.half is None))
    if instruction_set(n).has(Capability.WORD_PRODUCTS)
]


@contextmanager
def chosen_anyway() -> Iterator[None]:
    """Choose Winograd's transforms wherever they can be used, with inputs in the cache at any cost."""
    costs = {name: dataclasses.replace(getattr(plan, name), fetch=1e9) for name in ("INSTRUCTIONS", "CYCLES")}
    with mock.patch.multiple(plan, WORTH=np.inf, **costs):
        yield


def both(transform: Any, values: Array) -> Array:
    """Transform a matrix of integers of any size."""
    return np.array(in_both_dimensions(transform, values.astype(object).tolist()))


@given(seed=SEEDS)
def test_products_of_what_is_transformed_are_576_times_the_sums(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, weights = random.integers(-1000, 1000, (WINDOW, WINDOW)), random.integers(-1000, 1000, (3, 3))
    outputs = both(transform_output, both(transform_input, x) * both(transform_weights, weights))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3))
    assert np.array_equal(outputs, 576 * np.einsum("ijkl,kl->ij", windows, weights))


@pytest.mark.parametrize(("transform", "size", "most"), [(transform_input, WINDOW, 10), (transform_weights, 3, 7)])
def test_transformed_bytes_fit_16_bits(transform: Any, size: int, most: int) -> None:
    matrix = np.array([transform(row) for row in np.eye(size, dtype="int64").tolist()])
    assert np.abs(matrix).sum(axis=0).max() == most
    assert most**2 * -LOWEST < 2**15


def test_sums_come_back_from_32_bits() -> None:
    sums = np.array([0, 1, -1, plan.MOST_SUM - 1, 1 - plan.MOST_SUM])
    wrapped = (576 * sums * INVERSE_OF_NINE).astype("uint32").view("int32")
    assert np.array_equal(wrapped >> SHIFT, sums)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Draw 3x3 convolutions of at least one tile; `in_whole_vectors` says what their channels stand for."""
    height, width = draw(st.integers(TILE, 9)), draw(st.integers(TILE, 13))
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(0, 34))
    return Convolution(draw(st.integers(1, 2)), height + 2, width + 2, inputs, outputs, (3, 3))


def in_whole_vectors(drawn: Convolution, isa: InstructionSet) -> Convolution:
    """Return a convolution with so many vectors of inputs, and so many more output channels than it takes at least."""
    least = plan.MOST_VECTORS if isa.load_bytes else 1
    inputs, outputs = drawn.channels_in * 2 * isa.lanes, least * isa.lanes + drawn.channels_out
    return dataclasses.replace(drawn, channels_in=inputs, channels_out=outputs)


@pytest.mark.parametrize("isa_name", ISAS)
@given(
    drawn=convolutions(),
    seed=SEEDS,
    halo=HALOS,
    adds=st.booleans(),
    output_dtype=st.sampled_from(["uint8", "int8", "float32"]),
    signed=st.booleans(),
    cached=st.sampled_from([0.005, 1]),
    tasks=st.sampled_from([2, 1000]),
)
@examples(4)
def test_every_result_is_that_of_a_direct_convolution(
    isa_name: str,
    drawn: Convolution,
    seed: int,
    halo: Halo,
    adds: bool,
    output_dtype: str,
    signed: bool,
    cached: float,
    tasks: int,
) -> None:
    isa = instruction_set(isa_name)
    convolution = in_whole_vectors(drawn, isa)
    operator, (x, *constants) = convolution.integer(seed, output_dtype)
    arguments = [stored_signed(x, signed), *constants]
    if output_dtype != "float32":
        operator = dataclasses.replace(operator, halo=halo, halo_value=seed % 256 - 128 * (output_dtype == "int8"))
        if adds:
            shape = (convolution.batch, convolution.height - 2, convolution.width - 2, convolution.channels_out)
            residual = np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")
            arguments.append(stored_signed(residual, signed))
            operator = QConv2dAdd(**dataclasses.asdict(operator), convolution_multiplier=9000, residual_multiplier=7000)
    # Small parts of the cache: several bands of tiles, and chunks of channels.
    with chosen_anyway(), mock.patch.multiple(plan, INPUT_PART=cached, WEIGHT_PART=cached, TASKS=tasks):
        operation = make_operation(operator, *arguments, activations=(0, 4))
        assert select(operation, Machine(isa)).variant == "winograd"
        assert_exact(isa_name, operator, *arguments, activations=(0, 4))


@pytest.mark.parametrize("isa_name", ISAS)
def test_intermediate_results_may_overflow(isa_name: str) -> None:
    """The largest sums of all, which are just below the limit."""
    isa = instruction_set(isa_name)
    convolution = in_whole_vectors(Convolution(1, 6, 6, 1, 0, (3, 3)), isa)
    channels = plan.MOST_SUM // (9 * LOWEST * -HIGHEST) // convolution.channels_in * convolution.channels_in
    convolution = dataclasses.replace(convolution, channels_in=channels)
    operator, (x, weight, bias, multiplier) = convolution.integer(0, "float32")
    half = convolution.channels_out // 2
    x[...], weight[:half], weight[half:] = 0, HIGHEST, -HIGHEST
    x[:, 3:] = 255
    with chosen_anyway():
        assert_exact(isa_name, operator, x, weight, bias, multiplier)


@pytest.mark.parametrize(
    ("isa_name", "convolution", "largest", "variant"),
    [
        ("neon", Convolution(1, 30, 30, 64, 64, (3, 3)), 127, "winograd"),
        ("neon", Convolution(1, 9, 9, 512, 32, (3, 3)), 127, "block"),
        ("neon", Convolution(1, 30, 30, 64, 64, (3, 3), (2, 2)), 127, "block"),
        ("neon", Convolution(1, 30, 30, 64, 8, (3, 3)), 127, "block"),
        ("neon", Convolution(1, 30, 30, 20, 64, (3, 3)), 127, "block"),
        ("neon", Convolution(1, 5, 30, 64, 64, (3, 3)), 127, "block"),
        ("neon_dotprod", Convolution(1, 30, 30, 64, 64, (3, 3)), 127, "block"),
        ("avx2", Convolution(1, 30, 30, 64, 64, (3, 3)), 127, "winograd"),
        ("avx2", Convolution(1, 30, 30, 72, 64, (3, 3)), 127, ""),
        ("avx512_vnni", Convolution(1, 58, 58, 64, 64, (3, 3)), 127, "winograd"),
        ("avx512_vnni", Convolution(1, 82, 82, 96, 24, (3, 3)), 127, "winograd"),
        ("avx512_vnni", Convolution(1, 9, 9, 128, 64, (3, 3)), 127, ""),
    ],
    ids=[
        *("3x3", "sums may be too large", "stride", "few outputs", "odd inputs", "less than a tile", "dot products"),
        *("pairs", "not in whole vectors", "pairs without an addition", "one and a half vectors", "few tiles"),
    ],
)
def test_convolutions_are_computed_so_where_it_is_exact_and_pays(
    isa_name: str, convolution: Convolution, largest: int, variant: str
) -> None:
    operator, (x, weight, *others) = convolution.integer(0)
    operation = make_operation(operator, x, np.full_like(weight, largest), *others)
    assert select(operation, Machine(instruction_set(isa_name))).variant == variant


@pytest.mark.parametrize("channels", [24, 40, 18, 32])
def test_half_a_vector_multiplies_the_last_channels_if_it_holds_them(channels: int) -> None:
    operator, arguments = Convolution(1, 82, 82, 96, channels, (3, 3)).integer(0)
    with chosen_anyway():
        kernel = generate(make_operation(operator, *arguments), instruction_set("avx512_vnni"))
    products = re.findall(r"vpdpwssd\s.*", assembly(kernel, compile_target("avx512_vnni")))
    assert {product.split("%")[-1][:3] for product in products} == ({"ymm", "zmm"} if channels % 16 else {"zmm"})


@pytest.mark.parametrize("channels", [24, 64, 128])
def test_two_threads_have_equal_shares(channels: int) -> None:
    """Of output channels, or, where these are a single block, of tiles."""
    operator, arguments = Convolution(1, 58, 58, 64, channels, (3, 3)).integer(0)
    geometry = geometry_of(make_operation(operator, *arguments))
    chosen = plan.WinogradPlan.choose(geometry, Machine(instruction_set("avx512_vnni")))
    assert chosen is not None
    assert chosen.bands_are_tasks or chosen.blocks % 2 == 0
