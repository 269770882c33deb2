"""What follows a tensor: functions of single values up to operators that combine them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pipeline.ir.dataflow import Dataflow
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import CalibrateOptions, calibrate
from pipeline.quantization.observers.readers import AS_IT_IS, Reader, as_it_is, in_products
from pipeline.quantization.readers import readers_of
from tests.models import ModelBuilder, import_test_model

x = np.linspace(-9, 9, 101)


def convolution(b: ModelBuilder, image: str) -> str:
    return b.node("Conv", image, b.constant(np.ones((2, 2, 1, 1), "float32")))


def readers(model: onnx.ModelProto) -> tuple[Reader, ...]:
    """Return the readers of the result of the first convolution or layer normalization."""
    flow = Dataflow.of(import_test_model(model).module)
    first = next(b for b in flow.bindings if b.operator in ("nn.conv2d", "nn.layer_norm"))
    return readers_of(flow, first.var)


def hard_sigmoid(values: np.ndarray) -> np.ndarray:
    return np.clip(values * 0.2 + 0.5, 0, 1)


def test_an_operator_that_combines_values_reads_them_as_they_are() -> None:
    b = ModelBuilder()
    assert readers(b.model({"x": (1, 2, 4, 4)}, convolution(b, convolution(b, "x")))) == AS_IT_IS


def test_dense_layers_behind_a_layer_normalization_are_told_apart() -> None:
    b = ModelBuilder()
    normalized = b.node("LayerNormalization", "x", *(b.constant(np.ones(2, "float32")) for _ in range(2)))
    y = b.node("MatMul", normalized, b.constant(np.ones((2, 3), "float32")))
    assert readers(b.model({"x": (4, 2)}, y)) == (in_products,)


def test_functions_are_followed_through_what_moves_values() -> None:
    b = ModelBuilder()
    moved = b.node("MaxPool", b.node("Tanh", convolution(b, "x")), kernel_shape=[2, 2])
    (reader,) = readers(b.model({"x": (1, 2, 4, 4)}, convolution(b, b.node("Sigmoid", moved))))
    np.testing.assert_allclose(reader(x), 1 / (1 + np.exp(-np.tanh(x))))


def test_each_different_function_is_one_reader() -> None:
    b = ModelBuilder()
    y = convolution(b, "x")
    outputs = [convolution(b, b.node(function, y)) for function in ("Tanh", "HardSigmoid", "Tanh")]
    found = readers(b.model({"x": (1, 2, 4, 4)}, *outputs))
    assert len(found) == 2
    np.testing.assert_allclose(found[0](x), np.tanh(x))
    np.testing.assert_allclose(found[1](x), hard_sigmoid(x), atol=1e-7)


def test_what_is_also_an_output_is_read_as_it_is() -> None:
    b = ModelBuilder()
    y = convolution(b, "x")
    found = readers(b.model({"x": (1, 2, 4, 4)}, convolution(b, b.node("Tanh", y)), y))
    assert as_it_is in found
    assert len(found) == 2


@pytest.mark.parametrize("algorithm", ["kl", "mse"])
def test_calibration_chooses_ranges_by_what_follows(algorithm: str) -> None:
    b = ModelBuilder()
    y = convolution(b, "x")
    program = import_test_model(b.model({"x": (1, 2, 16, 16)}, convolution(b, b.node("Sigmoid", y))))
    random = np.random.default_rng(0)
    samples = [random.normal(scale=40, size=(1, 2, 16, 16)).astype("float32") for _ in range(20)]
    table = calibrate(program, annotate(program), samples, CalibrateOptions(algorithm=algorithm))
    entry = table.tensors[y]
    assert entry.minimum < -80
    assert entry.maximum > 80
    assert 4 < entry.threshold < 9
