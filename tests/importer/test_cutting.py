"""A model can end at its inner tensors, without what comes after them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.errors import ModelError, OptionError
from pipeline.importer import import_model
from pipeline.reference import execute
from pipeline.workflow import verify
from tests.models import ModelBuilder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """Return a model whose boxes and scores, of x alone, go through a NonMaxSuppression with a `limit` as input."""
    b = ModelBuilder()
    hidden = b.node("Relu", "x", name="hidden")
    boxes = b.node("Reshape", hidden, b.constant(np.array([1, 4, 4])), name="boxes")
    scores = b.node("Sigmoid", b.node("Reshape", "x", b.constant(np.array([1, 2, 8]))), name="scores")
    kept = b.node("Slice", scores, *(b.constant(np.array([v])) for v in (0, 4, 2)), name="kept")
    selected = b.node("NonMaxSuppression", boxes, kept, "limit", name="selected")
    model = b.model({"x": (1, 16), "limit": (1,)}, selected)
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    path = tmp_path / "detector.onnx"
    onnx.save(model, path)
    return path


def test_what_comes_after_is_left_out_with_its_inputs(detector: Path) -> None:
    program = import_model(detector, cut_at=["kept", "boxes"])
    assert [i.name for i in program.inputs] == ["x"]
    assert [(o.name, o.shape) for o in program.outputs] == [("kept", (1, 2, 4)), ("boxes", (1, 4, 4))]
    x = np.linspace(-1, 1, 16, dtype="float32")[None]
    results = execute(program, {"x": x})
    np.testing.assert_array_equal(results["boxes"], np.maximum(x, 0).reshape(1, 4, 4))
    np.testing.assert_allclose(results["kept"], 1 / (1 + np.exp(-x.reshape(1, 2, 8)[:, :, :4])), rtol=1e-6)


def test_the_import_of_what_is_left_is_verified(detector: Path) -> None:
    check = verify(detector, import_model(detector, cut_at=["boxes"]))
    assert check.largest_error == 0


def test_a_refusal_says_where_to_cut(detector: Path) -> None:
    with pytest.raises(ModelError, match=r"build only what comes before: --cut-at boxes --cut-at kept$"):
        import_model(detector)


def test_outputs_that_can_be_built_are_among_the_places_to_cut(tmp_path: Path) -> None:
    b = ModelBuilder()
    b.node("Relu", "x", name="y")
    model = b.model({"x": (1, 3)}, b.node("NonZero", b.node("Abs", "x", name="a"), name="z"), "y")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"--cut-at a --cut-at y$"):
        import_model(tmp_path / "m.onnx")


def test_no_place_is_proposed_where_nothing_comes_before(tmp_path: Path) -> None:
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, 3)}, b.node("NonZero", "x", name="z")), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"Export the model with other operators\.$"):
        import_model(tmp_path / "m.onnx")


def test_a_model_that_was_cut_is_another_model(detector: Path) -> None:
    known = [import_model(detector, cut_at=ends).source_sha256 for ends in (["boxes"], ["scores"], ["scores", "boxes"])]
    assert len(set(known)) == 3


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("box", "Unknown tensor to cut the model at 'box'.*Did you mean 'boxes'"),
        ("x", "Unknown tensor to cut the model at 'x'"),
        ("fixed", "can't be cut at 'fixed': that depends on none of its inputs"),
    ],
)
def test_places_that_do_not_fit(detector: Path, end: str, message: str) -> None:
    model = onnx.load(detector)
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["fixed"], value_float=1.0))
    onnx.save(model, detector)
    with pytest.raises(OptionError, match=message):
        import_model(detector, cut_at=[end])
