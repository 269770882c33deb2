"""Corrected biases, held against the mean error of the layer written out pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.program import Program
from pipeline.quantization.annotate import AnnotateOptions
from pipeline.quantization.calibrate import CalibrateOptions
from pipeline.quantization.corrections.bias_correction import BiasCorrection
from pipeline.quantization.steps import Annotate, Calibrate, run
from tests.models import ModelBuilder, import_test_model, small_network

random = np.random.default_rng(0)


def corrected(program: Program, samples: list[np.ndarray], per_channel: bool = True) -> Program:
    correction, options = BiasCorrection(), AnnotateOptions(per_channel=per_channel)
    state = run(program, [Annotate(options), Calibrate(samples, CalibrateOptions(), [correction])])
    return correction.apply(state).program


def biases(program: Program) -> list[np.ndarray]:
    found = (constant(b.value.args[2]) for b in Dataflow.of(program.module).bindings if len(b.value.args) == 3)
    return [bias for bias in found if bias is not None]


def rounded(weight: np.ndarray, per_channel: bool) -> np.ndarray:
    """Return weights [O, ...] as int8 has them, by the definition."""
    axes = tuple(range(1, weight.ndim)) if per_channel else None
    step = np.abs(weight.astype("float64")).max(axis=axes, keepdims=True) / 127
    return np.rint(weight / step) * step


def convolve(x: np.ndarray, weight: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    """Return the convolution of x [N,C,H,W] with weight [O,C/groups,K,K], one sum after another."""
    batch, channels, height, width = x.shape
    out, per_group, size, _ = weight.shape
    padded = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad))
    padded[:, :, pad : pad + height, pad : pad + width] = x
    rows, columns = ((n + 2 * pad - size) // stride + 1 for n in (height, width))
    y = np.zeros((batch, out, rows, columns))
    for n, o, i, j in np.ndindex(*y.shape):
        first = o // (out // groups) * per_group
        seen = padded[n, first : first + per_group, i * stride : i * stride + size, j * stride : j * stride + size]
        y[n, o, i, j] = (seen * weight[o]).sum()
    return y


@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize(("stride", "pad", "groups"), [(1, 0, 1), (2, 1, 1), (1, 2, 2), (2, 1, 4)])
def test_the_mean_error_of_a_convolution_is_taken_from_its_bias(
    stride: int, pad: int, groups: int, per_channel: bool
) -> None:
    weight = random.standard_normal((8, 4 // groups, 3, 3)).astype("float32")
    bias = random.standard_normal(8).astype("float32")
    b = ModelBuilder()
    attributes: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "group": groups}
    y = b.node("Conv", "x", b.constant(weight), b.constant(bias), name="y", **attributes)
    program = import_test_model(b.model({"x": (1, 4, 7, 6)}, y))
    # The mean of a channel stands for it at all pixels; here that is no approximation.
    samples = [np.broadcast_to(random.uniform(0, 4, (1, 4, 1, 1)), (1, 4, 7, 6)).astype("float32") for _ in range(3)]
    error = rounded(weight, per_channel) - weight
    mean = np.mean([convolve(x.astype("float64"), error, stride, pad, groups).mean(axis=(0, 2, 3)) for x in samples], 0)
    (found,) = biases(corrected(program, samples, per_channel))
    assert np.abs(mean).max() > 1e-3, "there is something to correct"
    np.testing.assert_allclose(found, bias - mean, rtol=0, atol=1e-6)


def test_the_mean_error_of_a_dense_layer_is_taken_from_its_bias() -> None:
    weight, bias = (random.standard_normal(shape).astype("float32") for shape in ((5, 16), (5,)))
    b = ModelBuilder()
    y = b.node("Gemm", "x", b.constant(weight), b.constant(bias), transB=1, name="y")
    program = import_test_model(b.model({"x": (2, 16)}, y))
    samples = [random.uniform(0, 4, (2, 16)).astype("float32") for _ in range(4)]
    # The fourth is held back.
    mean = (np.concatenate(samples[:3]).astype("float64") @ (rounded(weight, True) - weight).T).mean(axis=0)
    (found,) = biases(corrected(program, samples))
    np.testing.assert_allclose(found, bias - mean, rtol=0, atol=1e-6)


def test_only_biases_change_and_the_given_program_does_not() -> None:
    program = import_test_model(small_network())
    before = [bias.copy() for bias in biases(program)]
    samples = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(2)]
    changed = corrected(program, samples)
    assert all((a == b).all() for a, b in zip(biases(program), before, strict=True))
    old, new = (Dataflow.of(p.module).bindings for p in (program, changed))
    assert [(b.var.name, b.operator) for b in old] == [(b.var.name, b.operator) for b in new]
    for left, right in zip(old, new, strict=True):
        for i, (a, b) in enumerate(zip(left.value.args, right.value.args, strict=True)):
            if i != 2 and constant(a) is not None:
                np.testing.assert_array_equal(constant(a), constant(b))
    assert any((a != b).any() for a, b in zip(biases(program), biases(changed), strict=True))
