"""Recurrent layers are unrolled, and compute what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compiler.execute import Executor
from pipeline.errors import ModelError
from tests.models import import_test_model, run_exactly

STEPS, BATCH, FEATURES, HIDDEN = 4, 2, 5, 3
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(op_type: str, states: bool = True, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op_type] * HIDDEN

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.5).astype("float32"), name)

    weights = [weight("w", directions, rows, FEATURES), weight("r", directions, rows, HIDDEN)]
    inputs = ["x", "w", "r"]
    if bias:
        weights.append(weight("b", directions, 2 * rows))
    inputs.append("b" if bias else "")
    if states:
        weights.append(weight("h", directions, BATCH, HIDDEN))
        inputs += ["", "h"]
    outputs = ["y", "y_h"]
    if op_type == "LSTM":
        outputs.append("y_c")
        if states:
            weights += [weight("c", directions, BATCH, HIDDEN), weight("p", directions, 3 * HIDDEN)]
            inputs += ["c", "p"]
    node = helper.make_node(op_type, inputs, outputs, hidden_size=HIDDEN, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, BATCH, FEATURES])
    results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    graph = helper.make_graph([node], "recurrent", [x], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = [
    recurrent("RNN"),
    recurrent("RNN", states=False, bias=False, direction="reverse"),
    recurrent("RNN", activations=["Relu", "Tanh"], direction="bidirectional"),
    recurrent("GRU"),
    recurrent("GRU", states=False, linear_before_reset=1),
    recurrent("GRU", direction="bidirectional"),
    recurrent("LSTM"),
    recurrent("LSTM", states=False, bias=False),
    recurrent("LSTM", direction="bidirectional", clip=0.4),
    recurrent("LSTM", direction="reverse", input_forget=1),
]


@pytest.mark.parametrize("model", CASES, ids=lambda m: str(m.graph.node[0].op_type))
def test_results_are_those_of_onnx_runtime(model: onnx.ModelProto) -> None:
    x = np.random.default_rng(1).standard_normal((STEPS, BATCH, FEATURES)).astype("float32")
    expected = run_exactly(model, {"x": x})
    actual = Executor(import_test_model(model)).run({"x": x})
    for output, value in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(actual[output.name], value, rtol=1e-4, atol=1e-5)


def test_activations_with_parameters_are_refused() -> None:
    model = recurrent("RNN", activations=["LeakyRelu"])
    with pytest.raises(ModelError, match="RNN 'y': a recurrent layer can be imported if"):
        import_test_model(model)


def test_sequences_that_would_take_minutes_to_compile_are_refused() -> None:
    model = recurrent("RNN")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 257
    with pytest.raises(ModelError, match="at most 256 steps"):
        import_test_model(model)
