"""Imported models of old operator sets compute what ONNX Runtime computes, or what the standard defines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compiler.execute import Executor
from pipeline.importer.evaluation.model import evaluate_model
from tests.models import import_test_model, run_exactly


@dataclass(frozen=True)
class Old:
    """A node that reads x, float32 [2,3,4,5] by default, and then constants."""

    op_type: str
    opset: int
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: tuple[Any, ...] = ()
    shape: tuple[int, ...] = (2, 3, 4, 5)
    dtype: int = TensorProto.FLOAT

    def __str__(self) -> str:
        return f"{self.op_type}-{self.opset}-{'-'.join(map(str, self.attributes.values()))}".replace(" ", "")

    def model(self) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(np.asarray(c), f"c{k}") for k, c in enumerate(self.constants)]
        node = helper.make_node(self.op_type, ["x", *(w.name for w in weights)], ["y"], **self.attributes)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        y = helper.make_tensor_value_info("y", self.dtype, None)
        inputs = [x, *(helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights)]
        graph = helper.make_graph([node], "old", inputs, [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=3)


def scales(*values: float) -> np.ndarray:
    return np.array(values, "float32")


VECTOR = np.arange(3, dtype="float32")
RUN_BY_ONNX_RUNTIME = [
    Old("Softmax", 7),
    Old("Softmax", 11, {"axis": 2}),
    Old("LogSoftmax", 12, {"axis": -3}),
    Old("Hardmax", 11, {"axis": 1}),
    Old("Clip", 8, {"min": -0.5, "max": 0.25}),
    Old("Clip", 10, {"max": 0.25}),
    Old("Dropout", 7, {"ratio": 0.3}),
    Old("Dropout", 10),
    Old("Pad", 7, {"pads": [0, 0, 1, 2, 0, 0, 0, 3], "value": 1.5}),
    Old("Pad", 10, {"pads": [0, 0, 1, 2, 0, 0, 0, 3], "mode": "reflect"}),
    Old("Slice", 7, {"starts": [1, -3], "ends": [3, -1], "axes": [1, 3]}),
    Old("Slice", 9, {"starts": [1], "ends": [2]}),
    Old("Split", 7, {"split": [3], "axis": 1}),
    Old("Squeeze", 11, {"axes": [1]}, shape=(2, 1, 4, 1)),
    Old("Unsqueeze", 11, {"axes": [0, 5]}),
    Old("ReduceSum", 11, {"axes": [1, -1], "keepdims": 0}),
    Old("ReduceSum", 8),
    Old("Upsample", 7, {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    Old("Upsample", 7, {"scales": [1.0, 1.0, 1.5, 2.0], "mode": "linear"}),
    Old("Upsample", 9, {"mode": "nearest"}, (scales(1, 1, 1.5, 3),)),
    Old("Upsample", 9, {"mode": "linear"}, (scales(1, 1, 2, 3),)),
    Old("Resize", 10, {"mode": "nearest"}, (scales(1, 1, 2, 3),)),
    Old("Resize", 10, {"mode": "nearest"}, (scales(1, 1, 0.5, 0.7),)),
    Old("Resize", 10, {"mode": "nearest"}, (scales(1, 1, 0.6, 2),)),
    Old("Resize", 10, {"mode": "linear"}, (scales(1, 1, 2, 0.5),)),
    Old("BatchNormalization", 7, {}, (VECTOR + 1, VECTOR, VECTOR - 1, VECTOR + 0.5)),
    Old("BatchNormalization", 9, {"epsilon": 0.1}, (VECTOR + 1, VECTOR, VECTOR - 1, VECTOR + 0.5)),
    Old("Gemm", 7, {"alpha": 0.5}, (np.ones((5, 2), "float32"), np.ones((1, 2), "float32")), shape=(3, 5)),
    Old("Cast", 9, {"to": TensorProto.INT32}, dtype=TensorProto.INT32),
]


@pytest.mark.parametrize("old", RUN_BY_ONNX_RUNTIME, ids=str)
def test_results_are_those_of_onnx_runtime(old: Old) -> None:
    model = old.model()
    x = np.random.default_rng(0).standard_normal(old.shape).astype("float32")
    (expected,) = run_exactly(model, {"x": x})
    np.testing.assert_allclose(Executor(import_test_model(model)).run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
    evaluated = dict(evaluate_model(model, {"x": x}, 60))["y"]
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5, atol=1e-6)


X = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
BY_THE_STANDARD = [
    (Old("Add", 6, {"broadcast": 1, "axis": 1}, (VECTOR,)), X + VECTOR[:, None, None]),
    (Old("Mul", 5, {"broadcast": 1, "axis": -3}, (VECTOR,)), X * VECTOR[:, None, None]),
    (Old("Sub", 6, {"broadcast": 1}, (np.arange(5, dtype="float32"),)), X - np.arange(5, dtype="float32")),
    (Old("Div", 6, {"broadcast": 1, "axis": 1}, (np.full((3, 4), 2, "float32"),)), X / 2),
    (Old("Relu", 5, {"consumed_inputs": [0]}), np.maximum(X, 0)),
    (Old("Reshape", 4, {"shape": [2, -1]}), X.reshape(2, -1)),
    (Old("Cast", 5, {"to": "INT32"}, dtype=TensorProto.INT32), X.astype("int32")),
    (Old("Tile", 5, {}, (np.int64([2]), np.int64([1]))), np.tile(X, (1, 2, 1, 1))),
    (Old("Dropout", 6, {"is_test": 1}), X),
    (Old("Upsample", 6, {"height_scale": 2.0, "width_scale": 1.0}), X.repeat(2, axis=2)),
]


@pytest.mark.parametrize(("old", "expected"), BY_THE_STANDARD, ids=[str(old) for old, _ in BY_THE_STANDARD])
def test_results_are_those_of_the_standard(old: Old, expected: np.ndarray) -> None:
    model = old.model()
    np.testing.assert_allclose(Executor(import_test_model(model)).run({"x": X})["y"], expected, rtol=1e-6)
