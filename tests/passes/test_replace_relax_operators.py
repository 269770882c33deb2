"""ReplaceRelaxOperators: float operators of Relax become ours, and compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pipeline.compiler.execute import Executor
from pipeline.ir.dataflow import Dataflow
from pipeline.passes.lowering.replace_relax_operators import replace_relax_operators
from tests.models import ModelBuilder, import_test_model, quantize_by_reference, run_onnx

SHAPE = [2, 6, 9, 7]


def check(model: onnx.ModelProto, operator: str) -> None:
    """Assert that a program has `operator` after the pass, and computes what ONNX Runtime computes."""
    program = import_test_model(model)
    assert operator in [b.operator for b in Dataflow.of(replace_relax_operators(program.module)).bindings]
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    for value, expected in zip(Executor(program).run({"x": x}).values(), run_onnx(model, {"x": x}), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
    ],
    ids=["padding left out", "padding counted", "rounded up"],
)
def test_means_of_windows(attributes: dict[str, object]) -> None:
    b = ModelBuilder()
    check(b.model({"x": SHAPE}, b.node("AveragePool", "x", **attributes)), "nn.avg_pool2d")


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_of_images(keepdims: int) -> None:
    b = ModelBuilder()
    pooled = b.node("MaxPool", "x", kernel_shape=[2, 2])
    check(b.model({"x": SHAPE}, b.node("ReduceMean", pooled, axes=[2, 3], keepdims=keepdims)), "nn.avg_pool2d")


def test_other_means_stay() -> None:
    b = ModelBuilder()
    check(b.model({"x": SHAPE}, b.node("ReduceMean", "x", axes=[1], keepdims=1)), "relax.mean")


def test_both_limits_of_an_activation_behind_integers_become_one_operator() -> None:
    b = ModelBuilder()
    convolution = b.node("Conv", "x", b.constant(np.ones((4, 6, 1, 1), "float32")))
    limits = [b.constant(np.array(limit, "float32")) for limit in (0, 6)]
    program = import_test_model(b.model({"x": SHAPE}, b.node("Clip", convolution, *limits)))
    int8 = quantize_by_reference(program, {"x": np.random.default_rng(0).standard_normal(SHAPE).astype("float32")})
    operators = [
        [b.operator for b in Dataflow.of(m).bindings] for m in (int8.module, replace_relax_operators(int8.module))
    ]
    assert [[o for o in own if o in ("relax.maximum", "relax.minimum", "nn.unary")] for own in operators] == [
        ["relax.maximum", "relax.minimum"],
        ["nn.unary"],
    ]


def test_products_of_activations() -> None:
    b = ModelBuilder()
    check(b.model({"x": SHAPE}, b.node("Mul", "x", b.node("GlobalAveragePool", "x"))), "nn.multiply")
