"""Biases that are corrected layer by layer: the mean of what a quantized layer gives is float's."""

from __future__ import annotations

import dataclasses

import numpy as np
from onnx.reference import ReferenceEvaluator

from pipeline.config.options import AnnotateOptions, CalibrateOptions
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.program import Program
from pipeline.quantization.corrections.bias_correction import BiasCorrection
from pipeline.quantization.corrections.correction import Correction
from pipeline.quantization.corrections.layers import int8_layers
from pipeline.quantization.corrections.layerwise_bias_correction import LayerwiseBiasCorrection
from pipeline.quantization.realize import realize
from pipeline.quantization.state import State
from pipeline.quantization.statistics import is_held_back
from pipeline.quantization.steps import Annotate, Calibrate, run
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model, small_network

random = np.random.default_rng(0)


def calibrated(program: Program, samples: list[np.ndarray], *corrections: Correction) -> State:
    return run(program, [Annotate(AnnotateOptions()), Calibrate(samples, CalibrateOptions(), corrections)])


def two_layers() -> Program:
    """Return two convolutions of 1x1 pixels with a rectifier between them; x: [1,4,5,5]."""
    b = ModelBuilder()
    weights = [random.standard_normal(shape).astype("float32") for shape in ((8, 4, 1, 1), (8,), (6, 8, 1, 1), (6,))]
    first, first_bias, second, second_bias = map(b.constant, weights)
    y = b.node("Conv", b.node("Relu", b.node("Conv", "x", first, first_bias)), second, second_bias, name="y")
    return import_test_model(b.model({"x": (1, 4, 5, 5)}, y))


def output_means(program: Program, samples: list[np.ndarray]) -> np.ndarray:
    """Return the mean of each channel of the only output over the samples that corrections learn from: [C]."""
    wanted = [s for i, s in enumerate(samples) if not is_held_back(i)]
    return np.mean([execute(program, {"x": s})["y"].mean(axis=(0, 2, 3), dtype="float64") for s in wanted], axis=0)


def biases(program: Program) -> list[np.ndarray]:
    found = (constant(b.value.args[2]) for b in Dataflow.of(program.module).bindings if len(b.value.args) == 3)
    return [bias for bias in found if bias is not None]


def mean_errors(state: State, samples: list[np.ndarray]) -> np.ndarray:
    """Return how far the means of the output's channels are from float's, over the samples to learn from: [C]."""
    realized, _ = realize(state.program, state.annotation, state.calibrated())
    return np.abs(output_means(realized, samples) - output_means(state.uncorrected, samples))


def test_the_mean_of_each_channel_is_float_s() -> None:
    program, correction = two_layers(), LayerwiseBiasCorrection()
    samples = [random.uniform(0, 4, (1, 4, 5, 5)).astype("float32") for _ in range(8)]
    state = calibrated(program, samples, correction)
    without, found = mean_errors(state, samples), mean_errors(correction.apply(state), samples)
    # A bias is rounded to a step of the sums.
    layer = int8_layers(program, state.annotation)["y"]
    step = state.calibrated().tensors[layer.input].scale * np.abs(layer.weight).max(axis=(1, 2, 3)) / 127
    assert (found <= step).all()
    assert found.sum() < without.sum()


def test_what_fast_bias_correction_has_done_does_not_count_twice() -> None:
    program, fast, correction = two_layers(), BiasCorrection(), LayerwiseBiasCorrection()
    samples = [random.uniform(0, 4, (1, 4, 5, 5)).astype("float32") for _ in range(8)]
    state = calibrated(program, samples, fast, correction)
    found = mean_errors(correction.apply(fast.apply(state)), samples)
    assert found.sum() < mean_errors(state, samples).sum() / 2


def test_a_layer_that_held_back_samples_speak_against_stays_as_it_is() -> None:
    b = ModelBuilder()
    weight, bias = (random.standard_normal(shape).astype("float32") for shape in ((5, 16), (5,)))
    y = b.node("Gemm", "x", b.constant(weight), b.constant(bias), transB=1, name="y")
    program, correction = import_test_model(b.model({"x": (1, 16)}, y)), LayerwiseBiasCorrection()
    value = random.uniform(1, 4, (1, 16)).astype("float32")
    samples = [-value if is_held_back(i) else value for i in range(8)]
    state = calibrated(program, samples, correction)
    (found,) = biases(correction.apply(state).program)
    np.testing.assert_array_equal(found, bias)


def test_only_biases_change_and_they_do_so_in_the_same_way_each_time() -> None:
    program, correction = import_test_model(small_network()), LayerwiseBiasCorrection()
    samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(8)]
    before = [bias.copy() for bias in biases(program)]
    first, second = (correction.apply(calibrated(program, samples, correction)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(biases(program), before, strict=True))
    assert all((a == b).all() for a, b in zip(biases(first.program), biases(second.program), strict=True))
    assert any((a != b).any() for a, b in zip(biases(first.program), before, strict=True))
    layers = [int8_layers(p, first.annotation) for p in (program, first.program)]
    for name, layer in layers[0].items():
        np.testing.assert_array_equal(layer.weight, layers[1][name].weight)
    assert dataclasses.replace(first, program=program, statistics={}) == dataclasses.replace(
        second, program=program, statistics={}
    )


def test_a_model_that_chooses_by_indices_that_it_computes_is_corrected() -> None:
    b = ModelBuilder()
    weights = [random.standard_normal(shape).astype("float32") for shape in ((8, 4, 1, 1), (8,))]
    convolution = b.node("Conv", "x", *map(b.constant, weights), name="c")
    greatest = b.node("ArgMax", b.node("ReduceMax", convolution, keepdims=0, axes=[0, 1, 2]), keepdims=1)
    model = b.model({"x": (1, 4, 5, 5)}, b.node("Gather", convolution, greatest, axis=3, name="y"))
    program, correction = import_test_model(model), LayerwiseBiasCorrection()
    samples = [random.uniform(0, 4, (1, 4, 5, 5)).astype("float32") for _ in range(8)]
    assert "relax.less" in {binding.operator for binding in Dataflow.of(program.module).bindings}
    (expected,) = ReferenceEvaluator(model).run(None, {"x": samples[0]})
    np.testing.assert_allclose(execute(program, {"x": samples[0]})["y"], expected, rtol=1e-5, atol=1e-5)
    state = calibrated(program, samples, correction)
    before, after = biases(state.program), biases(correction.apply(state).program)
    assert any((x != y).any() for x, y in zip(before, after, strict=True))
