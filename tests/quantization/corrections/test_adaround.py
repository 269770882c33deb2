"""Rounding that is learned: what it chooses from, that its error is smaller, and what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.options import AnnotateOptions, CalibrateOptions
from pipeline.ir.program import Program
from pipeline.quantization.corrections.adaptive_rounding import Objective, in_bits, learned_rounding
from pipeline.quantization.corrections.adaround import AdaRound
from pipeline.quantization.corrections.layers import int8_layers
from pipeline.quantization.corrections.walk import steps, walk
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import is_held_back
from pipeline.quantization.steps import Annotate, Calibrate, run
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model

random = np.random.default_rng(0)


def objective() -> Objective:
    x = random.standard_normal((1, 400, 3)) @ random.standard_normal((1, 3, 24))
    x += 0.1 * random.standard_normal(x.shape)
    weight = random.uniform(-100, 100, (1, 8, 24))
    return Objective(weight, x.transpose(0, 2, 1) @ x / 400, np.zeros(weight.shape))


def squared_error(wanted: Objective, quantized: np.ndarray) -> float:
    off = quantized - wanted.weight
    return float(((off @ wanted.moments) * off).sum())


def test_the_error_of_correlated_inputs_is_less_than_that_of_the_nearest_weights() -> None:
    wanted = objective()
    nearest = np.rint(wanted.weight)
    found = learned_rounding(wanted, nearest)
    assert set(np.unique(np.abs(found - wanted.weight) < 1)) == {True}
    np.testing.assert_array_equal(found, np.rint(found))
    assert squared_error(wanted, found) < squared_error(wanted, nearest) / 2


def test_the_largest_weights_stay() -> None:
    wanted = objective()
    wanted.weight[0, :, 2] = 126.9 * np.sign(wanted.weight[0, :, 2])
    start = np.rint(wanted.weight)
    np.testing.assert_array_equal(learned_rounding(wanted, start)[0, :, 2], start[0, :, 2])


def test_values_in_bits_are_whole_multiples_of_a_power_of_two() -> None:
    values = random.standard_normal((5, 7)) * 1000
    found = in_bits(values, 12)
    assert np.abs(found - values).max() <= np.abs(values).max() / 2**11
    np.testing.assert_array_equal(np.rint(found * 4), found * 4)


def network(groups: int) -> Program:
    """Return two convolutions, the second one of so many groups, with a rectifier between them; x: [1,8,6,6]."""
    b = ModelBuilder()
    shapes = ((16, 8, 1, 1), (16,), (16, 16 // groups, 3, 3), (16,))
    first, first_bias, second, second_bias = (b.constant(random.standard_normal(s).astype("float32")) for s in shapes)
    hidden = b.node("Relu", b.node("Conv", "x", first, first_bias))
    y = b.node("Conv", hidden, second, second_bias, group=groups, pads=[1] * 4, name="y")
    return import_test_model(b.model({"x": (1, 8, 6, 6)}, y))


def correlated(count: int) -> list[np.ndarray]:
    """Return images [1,8,6,6] whose channels are mixtures of a few."""
    mixed = random.standard_normal((8, 2))
    images = (np.einsum("ck,khw->chw", mixed, random.standard_normal((2, 6, 6))) + 1 for _ in range(count))
    return [image[None].astype("float32") for image in images]


def calibrated(program: Program, samples: list[np.ndarray]) -> State:
    options = CalibrateOptions(algorithm="abs_max")
    return run(program, [Annotate(AnnotateOptions()), Calibrate(samples, options, [AdaRound()])])


def noise(state: State, samples: list[np.ndarray]) -> float:
    """Return the squared error of the int8 program's only output, on samples that are held back."""
    realized, _ = realize(state.program, state.annotation, state.calibrated())
    held_back = [{"x": s} for i, s in enumerate(samples) if is_held_back(i)]
    return sum(
        float(np.square(execute(realized, f)["y"] - execute(state.uncorrected, f)["y"]).sum()) for f in held_back
    )


@pytest.mark.parametrize("groups", [1, 16], ids=["dense", "depthwise"])
def test_outputs_of_held_back_samples_are_nearer_to_float_each_time(groups: int) -> None:
    samples = correlated(24)
    state = calibrated(network(groups), samples)
    corrected, again = (AdaRound().apply(state) for _ in range(2))
    assert noise(corrected, samples) < noise(state, samples)
    found = [int8_layers(s.program, s.annotation) for s in (corrected, again)]
    for one, other in zip(*(layers.values() for layers in found), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)


def test_a_walk_executes_what_it_is_given_in_place_of_a_binding() -> None:
    program, feed = network(1), {"x": correlated(1)[0]}
    bindings = [binding for binding, _ in steps(program, [feed])]
    read: list[np.ndarray] = []
    walk(program, [feed], lambda binding, inputs: read.append(inputs[0]) or binding)
    assert len(read) == len(bindings)
