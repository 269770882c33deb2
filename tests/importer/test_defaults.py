"""Operators that are imported by the function that defines them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compiler.execute import Executor
from tests.models import ModelBuilder, import_test_model, run_onnx


@pytest.mark.parametrize("operator", ["Celu", "Elu", "HardSigmoid", "LeakyRelu", "Selu", "Shrink", "ThresholdedRelu"])
def test_attributes_that_are_left_out_have_their_defaults(operator: str) -> None:
    b = ModelBuilder()
    model = b.model({"x": [3, 7]}, b.node(operator, "x"))
    x = np.linspace(-3, 3, 21).astype("float32").reshape(3, 7)
    (y,) = Executor(import_test_model(model)).run({"x": x}).values()
    np.testing.assert_allclose(y, run_onnx(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
