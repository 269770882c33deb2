"""Models quantized by pairs of QuantizeLinear and DequantizeLinear compute exactly the same when imported."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pipeline.compiler.execute import Executor
from pipeline.quantization.annotate import annotate
from tests.models import ModelBuilder, import_test_model, run_exactly


def pair(b: ModelBuilder, x: str, scale: np.ndarray, zero_point: np.ndarray, **attributes: int) -> str:
    parameters = b.constant(scale), b.constant(zero_point)
    return b.node("DequantizeLinear", b.node("QuantizeLinear", x, *parameters, **attributes), *parameters, **attributes)


def assert_exact(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    x = (np.random.default_rng(0).standard_normal(shape) * 4).astype("float32")
    (expected,) = run_exactly(model, {"x": x})
    np.testing.assert_array_equal(Executor(import_test_model(model)).run({"x": x})["y"], expected)


@pytest.mark.parametrize(
    ("dtype", "zero_point"), [("uint8", 128), ("uint8", 3), ("int8", 0), ("int8", -7), ("uint16", 40000), ("int16", 0)]
)
def test_activations_saturate_and_round_as_the_integers_do(dtype: str, zero_point: int) -> None:
    b = ModelBuilder(opset=21)
    quantized = pair(b, "x", np.array(0.03125, "float32"), np.array(zero_point, dtype))
    b.node("Neg", quantized, name="y")
    assert_exact(b.model({"x": (1, 4, 5, 6)}, "y"), (1, 4, 5, 6))


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_along_an_axis(axis: int) -> None:
    b = ModelBuilder(opset=13)
    scales, zeros = np.array([0.5, 0.25, 0.125, 0.0625], "float32"), np.array([0, 1, 2, 3], "int8")
    b.node("Neg", pair(b, "x", scales, zeros, axis=axis), name="y")
    assert_exact(b.model({"x": (2, 4, 3, 4)}, "y"), (2, 4, 3, 4))


def test_such_a_network_becomes_int8_again() -> None:
    random = np.random.default_rng(1)
    b = ModelBuilder(opset=13)
    x = pair(b, "x", np.array(0.05, "float32"), np.array(128, "uint8"))
    for _ in range(2):
        weights = b.constant(random.integers(-127, 128, (8, 8, 3, 3)).astype("int8"))
        scales, zeros = b.constant(np.full(8, 0.002, "float32")), b.constant(np.zeros(8, "int8"))
        kernel = b.node("DequantizeLinear", weights, scales, zeros, axis=0)
        x = b.node("Relu", b.node("Conv", x, kernel, pads=[1, 1, 1, 1]))
        x = pair(b, x, np.array(0.04, "float32"), np.array(0, "uint8"))
    b.node("GlobalAveragePool", x, name="y")
    program = import_test_model(b.model({"x": (1, 8, 6, 6)}, "y"))
    precisions = [(o.operator, o.precision) for o in annotate(program).operators]
    assert precisions.count(("conv2d", "int8")) == 2
    assert precisions.count(("unary", "int8")) >= 1
