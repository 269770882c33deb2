"""TVM's operators in forms of our own give ONNX Runtime's results."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compilation.execute import Executor
from tests.models import ModelBuilder, import_test_model, run_onnx


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    b = ModelBuilder()
    model = b.model({"x": (3, 5, 17)}, b.node("Softmax", "x", axis=axis))
    x = np.random.default_rng(0).standard_normal((3, 5, 17)).astype("float32") * 30
    (result,) = Executor(import_test_model(model)).run({"x": x}).values()
    np.testing.assert_allclose(result, run_onnx(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
