"""Nodes some of whose outputs aren't used, and operators with optional outputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model


@pytest.mark.parametrize("names", [["y", "i"], ["y", ""], ["v", "y"], ["", "y"]])
def test_one_of_two_results_may_be_of_no_use(names: list[str]) -> None:
    b = ModelBuilder()
    b.node("TopK", "x", b.constant(np.array([2])))
    b.nodes[-1].output[:] = names
    model = b.model({"x": (1, 5)}, "y")
    dtype = "float32" if names[0] == "y" else "int64"
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    (output,) = import_test_model(model).outputs
    assert (output.shape, output.dtype) == ((1, 2), dtype)


def test_a_split_into_one_part_is_the_whole() -> None:
    b = ModelBuilder()
    y = b.node("Neg", b.node("Split", "x", b.constant(np.array([6])), axis=-1), name="y")
    program = import_test_model(b.model({"x": (1, 6)}, y))
    np.testing.assert_array_equal(execute(program, {"x": np.arange(6, dtype="float32")[None]})["y"], [-np.arange(6)])
