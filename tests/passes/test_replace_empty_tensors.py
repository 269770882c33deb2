"""ReplaceEmptyTensors: empty tensors, as exporters write them, and what is computed from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.compiler.build import compile_program
from pipeline.compiler.execute import Executor
from pipeline.errors import ModelError
from pipeline.runtime.local import Runner
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model, run_onnx

SHAPE = (1, 4, 6, 8)
X = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")


class Model(ModelBuilder):
    """An ONNX model with the input x: [1,4,6,8]."""

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values))

    def empty_slice(self, axis: int) -> str:
        """Return an empty slice of x along an axis."""
        return self.node("Slice", "x", self.ints(2), self.ints(2), self.ints(axis))

    def conv(self, x: str) -> str:
        return self.node("Conv", x, self.constant(np.ones((4, 4, 3, 3), "float32")), pads=[1] * 4)

    def only(self, output: str) -> onnx.ModelProto:
        return self.model({"x": SHAPE}, output)


def models() -> dict[str, onnx.ModelProto]:
    found = {}

    def add(name: str, *outputs: str, of: Model) -> None:
        found[name] = of.model({"x": SHAPE}, *outputs)

    m = Model()
    add("an output", m.empty_slice(1), of=m)
    m = Model()
    add("chain", m.node("Softmax", m.conv(m.empty_slice(0))), of=m)
    m = Model()
    add("beside another output", m.node("Relu", m.empty_slice(3)), m.conv("x"), of=m)
    m = Model()
    add("concatenation", m.node("Concat", m.conv("x"), m.empty_slice(2), "x", axis=2), of=m)
    m = Model()
    add("sum", m.node("ReduceSum", m.empty_slice(3), m.ints(3)), of=m)
    m = Model()
    add("product of constants", m.node("MatMul", m.empty_slice(3), m.constant(np.ones((0, 3), "float32"))), of=m)
    m = Model()
    turned = m.node("Transpose", m.empty_slice(3), perm=[0, 1, 3, 2])
    add("product", m.node("MatMul", m.empty_slice(3), turned), of=m)
    m = Model()
    value = m.constant(np.float32(3))
    add("padding", m.node("Pad", m.empty_slice(2), m.ints(0, 0, 2, 0, 0, 0, 2, 0), value), of=m)
    m = Model()
    add("reshape", m.node("Reshape", m.empty_slice(1), m.ints(0, 0, 48)), of=m)
    return found


@pytest.mark.parametrize("model", models().values(), ids=models())
def test_what_has_no_elements_is_no_obstacle(model: onnx.ModelProto) -> None:
    actual = Executor(import_test_model(model)).run({"x": X})
    for value, expected in zip(actual.values(), run_onnx(model, {"x": X}), strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def test_a_library_may_have_nothing_to_compute(tmp_path: Path) -> None:
    m = Model()
    model = m.model({"x": SHAPE}, m.empty_slice(2), m.node("Identity", m.ints(1, 2)), m.node("Identity", "x"))
    path = compile_program(import_test_model(model), load_target("host"), tmp_path / "model.so")
    nothing, ints, x = Runner(path).run({"x": X}).values()
    assert nothing.shape == (1, 4, 0, 8)
    np.testing.assert_array_equal(ints, [1, 2])
    np.testing.assert_array_equal(x, X)


def test_an_operator_without_result_on_empty_tensors_is_refused_by_name() -> None:
    m = Model()
    with pytest.raises(ModelError, match=r"tensor 'y' is computed by mean from 't0', of the shape \[1, 4, 0, 8\]"):
        import_test_model(m.only(m.node("GlobalAveragePool", m.empty_slice(2), name="y")))


def test_a_mean_of_an_empty_axis_is_refused_by_name() -> None:
    m = Model()
    with pytest.raises(ModelError, match="ReduceMean 'y': it reduces an axis without elements"):
        import_test_model(m.only(m.node("ReduceMean", m.empty_slice(2), axes=[2], name="y")))
