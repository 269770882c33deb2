"""Pairs of inputs: what is multiplied together fits 16 bits for all activations, and every input counts once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import matchings
from pipeline.kernels.gemm import pair_plan
from pipeline.kernels.gemm.geometry import geometry_of
from pipeline.kernels.gemm.pairing import SEARCHED, STEP, WINDOW, Pairing, arrange, pair
from pipeline.kernels.isa import instruction_set
from pipeline.kernels.isa.x86.vectors import PairwiseInstructionSet
from pipeline.kernels.machine import Machine
from tests.kernels.convolutions import Convolution
from tests.kernels.harness import generate, make_operation
from tests.kernels.instruction_sets import distinct
from tests.kernels.tensors import SEEDS, assert_exact

Array = npt.NDArray[np.int8]

PAIRING = [
    name
    for name in distinct(lambda isa: (isa.lanes, isa.registers, type(isa).dot))
    if isinstance(instruction_set(name), PairwiseInstructionSet)
]
"""Instruction sets that multiply pairs of bytes."""

MACHINE = Machine(instruction_set("avx2"))


def drawn_weights(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return weights of one of several kinds: as networks have them, all alike, or extremes of either sign."""
    normal = np.clip(np.rint(random.normal(0, random.uniform(10, 100), shape)), -128, 127)
    extreme = random.choice([-128, -127, -64, 0, 1, 64, 65, 127], shape)
    kind = random.integers(0, 4)
    same = np.full(shape, random.choice([-128, -65, -64, 0, 64, 65, 127]))
    return (normal, extreme, np.where(random.random(shape) < 0.2, extreme, normal), same)[kind].astype("int8")


def steps(weights: Array, pairing: Pairing) -> tuple[Array, Array]:
    """Return weights in pairs, [blocks, lanes, pairs, 2], and which input each place takes, [blocks, pairs, 2]."""
    blocks, lanes, windows, _ = weights.shape
    ordered, extra = arrange(weights, pairing)
    regular_inputs = np.arange(windows)[:, np.newaxis] * WINDOW + pairing.order.astype("int64")
    extra_inputs = pairing.extra_windows[..., np.newaxis] * WINDOW + pairing.extra_order
    inputs = np.concatenate([regular_inputs.reshape(blocks, -1), extra_inputs.reshape(blocks, -1)], axis=1)
    values = np.concatenate([ordered.reshape(blocks, lanes, -1), extra.reshape(blocks, lanes, -1)], axis=2)
    return values.reshape(blocks, lanes, -1, 2), inputs.reshape(blocks, -1, 2)


@given(seed=SEEDS, blocks=st.integers(1, 3), lanes=st.integers(1, 24), windows=st.integers(1, 5))
@settings(max_examples=50)
def test_pairs_fit_16_bits_and_every_weight_counts_once(seed: int, blocks: int, lanes: int, windows: int) -> None:
    weights = drawn_weights(np.random.default_rng(seed), (blocks, lanes, windows, WINDOW))
    pairs, inputs = steps(weights, pair(weights))
    assert (255 * np.maximum(pairs.astype("int64"), 0).sum(axis=-1) < 2**15).all()
    assert (255 * np.minimum(pairs.astype("int64"), 0).sum(axis=-1) >= -(2**15)).all()
    for block, (values, places) in enumerate(zip(pairs, inputs, strict=True)):
        counted = np.zeros((lanes, windows * WINDOW), "int64")
        np.add.at(counted, (slice(None), places.reshape(-1)), values.reshape(lanes, -1))
        np.testing.assert_array_equal(counted, weights[block].reshape(lanes, -1))


def test_inputs_that_find_partners_need_no_extra_steps() -> None:
    weights = np.tile(np.array([127, -127], "int8").repeat(WINDOW // 2), (1, 8, 2, 1))
    assert pair(weights).extra == 0


def test_what_is_too_much_for_a_pair_goes_to_extra_steps() -> None:
    weights = np.full((1, 8, 1, WINDOW), 127, "int8")
    pairing = pair(weights)
    ordered, extra = arrange(weights, pairing)
    assert pairing.used_extra.tolist() == [WINDOW // STEP]
    assert sorted(set(ordered.reshape(-1).tolist())) == [1, 127]
    assert sorted(set(extra.reshape(-1).tolist())) == [0, 126]


def test_matchings_and_their_numbers_are_one_to_one() -> None:
    numbers = np.concatenate([np.arange(1000), np.random.default_rng(0).integers(0, matchings.COUNT, 1000)])
    found = matchings.orders(numbers)
    assert matchings.are_matchings(found).all()
    np.testing.assert_array_equal(matchings.numbers_of(found), numbers)
    assert len(np.unique(matchings.orders(np.arange(matchings.COUNT)), axis=0)) == matchings.COUNT


@given(seed=SEEDS, width=st.integers(20, 60))
@settings(max_examples=30)
def test_windows_are_in_the_order_of_the_first_matching_that_fits(seed: int, width: int) -> None:
    weights = np.clip(np.rint(np.random.default_rng(seed).normal(0, width, (1, 8, 1, WINDOW))), -127, 127)
    tried = matchings.orders(np.arange(SEARCHED))
    sums = weights[0, :, 0, tried[:, 0::2]] + weights[0, :, 0, tried[:, 1::2]]
    fits = (np.abs(sums) <= 128).all(axis=(1, 2))
    pairing = pair(weights.astype("int8"))
    if fits.any():
        assert pairing.order.reshape(-1).tolist() == tried[fits.argmax()].tolist()
        assert pairing.extra == 0


def test_windows_with_an_odd_input_are_in_the_order_of_the_first_matching_that_misses_one_pair() -> None:
    random = np.random.default_rng(0)
    weights = random.integers(-60, 60, (1, 8, 1, WINDOW)).astype("int8")
    weights[..., 5] = 127
    weights[..., 6:9] = 100
    fits = np.abs(weights[0, :, 0].astype(int)[:, :, np.newaxis] + weights[0, :, 0, np.newaxis]).max(axis=0) <= 128
    assert not fits[5].any()
    tried = matchings.orders(np.arange(SEARCHED))
    missed = (~fits[tried[:, 0::2], tried[:, 1::2]]).sum(axis=1)
    pairing = pair(weights)
    assert pairing.extra_used.sum() == missed.min() > 0
    assert pairing.order.reshape(-1).tolist() == tried[missed.argmin()].tolist()


def test_layers_of_equal_sizes_have_the_same_function_though_their_inputs_are_paired_otherwise() -> None:
    structures = set()
    for seed in range(4):
        operator, (x, weight, bias, multiplier) = Convolution(1, 28, 28, 512, 128).integer(seed=0)
        weight = np.clip(np.rint(np.random.default_rng(seed).normal(0, 32, weight.shape)), -127, 127).astype("int8")
        operation = make_operation(operator, x, weight, bias, multiplier)
        workload = pair_plan.make_pair_workload(geometry_of(operation), MACHINE, weight)
        assert workload is not None
        plan, _ = pair_plan.make_pair_plan(geometry_of(operation), MACHINE, weight, workload)
        structures.add(plan)
    assert len(structures) == 1


def test_weights_of_large_layers_are_nearly_all_paired() -> None:
    weights = np.random.default_rng(0).standard_normal((8, 24, 72, WINDOW))
    largest = np.abs(weights).max(axis=(2, 3), keepdims=True)
    pairing = pair(np.rint(weights / largest * 127).astype("int8"))
    assert pairing.used_extra.max() <= 72 * WINDOW // STEP * 0.02


@pytest.mark.parametrize("isa_name", PAIRING)
@given(
    seed=SEEDS,
    channels=st.tuples(st.integers(16, 150), st.integers(1, 70)),
    kernel=st.sampled_from([1, 1, 2, 3]),
    groups=st.sampled_from([1, 1, 2]),
    width=st.integers(1, 15),
)
@settings(max_examples=6)
def test_convolutions_by_pairs_are_exact_for_extreme_weights_and_activations(
    isa_name: str, seed: int, channels: tuple[int, int], kernel: int, groups: int, width: int
) -> None:
    random = np.random.default_rng(seed)
    shape = Convolution(1, 2 + kernel, width + kernel - 1, *channels, (kernel, kernel), groups=groups)
    operator, (x, weight, bias, multiplier) = shape.integer(seed, "float32")
    weight = np.maximum(drawn_weights(random, weight.shape), -127).astype("int8")
    x = random.choice(np.array([0, 255], "uint8"), x.shape) if random.random() < 0.7 else x
    # Also where many inputs are without a partner, and kernels that widen values would be quicker.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_plan, "WORTHWHILE", float("inf"))
        assert_exact(isa_name, operator, x, weight, bias, multiplier)


@pytest.mark.parametrize("isa_name", PAIRING)
def test_large_layers_are_computed_by_pairs_and_their_weights_have_8_bits(isa_name: str) -> None:
    random = np.random.default_rng(0)
    operator, (x, weight, bias, multiplier) = Convolution(1, 9, 9, 128, 128, (3, 3)).integer(seed=0)
    weight = np.clip(np.rint(random.normal(0, 35, weight.shape)), -127, 127).astype("int8")
    operation = make_operation(operator, x, weight, bias, multiplier)
    packed = generate(operation, instruction_set(isa_name)).arguments[1]
    assert isinstance(packed, np.ndarray)
    assert packed.nbytes <= 1.02 * weight.nbytes


@pytest.mark.parametrize("isa_name", PAIRING)
def test_layers_whose_inputs_find_no_partners_are_not(isa_name: str) -> None:
    operator, (x, weight, bias, multiplier) = Convolution(1, 8, 8, 64, 64).integer(seed=0)
    operation = make_operation(operator, x, np.full_like(weight, 127), bias, multiplier)
    packed = generate(operation, instruction_set(isa_name)).arguments[1]
    assert isinstance(packed, np.ndarray)
    assert packed.dtype == "int16"
