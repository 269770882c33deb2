"""Tensors keep their names in the ONNX model, whatever these are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pipeline.compiler.execute import Executor
from pipeline.errors import ModelError
from pipeline.ir.dataflow import Dataflow
from pipeline.quantization.annotate import annotate
from tests.models import ModelBuilder, import_test_model, run_onnx

NAMES = ["main", "lv", "lv1", "gv", "a b", "x/y:0", "'\"", "%5", "入力", "n" * 1000, "y.permuted", "t0.conv2d", "R.add"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["input", "inside", "output"])
def test_any_name_may_stand_anywhere(place: str, name: str) -> None:
    x, inside, y = (name if place == p else p for p in ("input", "inside", "output"))
    b = ModelBuilder()
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype("float32")
    b.node("Conv", x, b.constant(weight), name=inside)
    b.node("Conv", b.node("Sigmoid", inside), b.constant(weight), name=y)
    model = b.model({x: [1, 4, 6, 6]}, y)
    feeds = {x: np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype("float32")}
    program = import_test_model(model)
    assert [o.name for o in annotate(program).operators if o.operator == "conv2d"] == [inside, y]
    np.testing.assert_allclose(Executor(program).run(feeds)[y], run_onnx(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_names_that_differ_only_in_what_identifiers_cannot_hold_stay_apart() -> None:
    b = ModelBuilder()
    for name, function in {"a.b": "Sigmoid", "a_b": "Tanh", "a/b": "Erf"}.items():
        b.node(function, "x", name=name)
    b.node("Sum", "a.b", "a_b", "a/b", name="y")
    program = import_test_model(b.model({"x": [1, 4]}, "y"))
    assert {"a.b", "a_b", "a/b"} <= {o.name for o in annotate(program).operators}


def test_tensors_that_only_the_importer_knows_are_named_after_the_one_they_lead_to() -> None:
    b = ModelBuilder()
    b.node("LpPool", "x", kernel_shape=[2, 2], name="pooled")
    program = import_test_model(b.model({"x": [1, 4, 6, 6]}, "pooled"))
    assert {b.var.name.partition(".")[0] for b in Dataflow.of(program.module).bindings} == {"pooled"}


def test_each_result_of_an_operator_with_several_has_its_own_name() -> None:
    b = ModelBuilder()
    b.nodes.append(helper.make_node("Split", ["x"], ["left", "right"], axis=1))
    y = b.node("Concat", b.node("Sigmoid", "right"), b.node("Tanh", "left"), axis=1)
    names = {b.var.name for b in Dataflow.of(import_test_model(b.model({"x": [1, 4]}, y)).module).bindings}
    assert {"left", "right"} <= names


def test_a_shape_that_depends_on_the_data_is_refused_by_operator_and_tensor() -> None:
    b = ModelBuilder()
    y = b.node("Gather", "x", b.node("NonZero", b.node("Relu", "x"), name="where it is"))
    with pytest.raises(
        ModelError, match="NonZero 'where it is': the shape of tensor 'where it is' depends on the data"
    ):
        import_test_model(b.model({"x": [4]}, y))
