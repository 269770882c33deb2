"""ReplaceSorts, and other operators whose implementation by TVM would need its compiler when it runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from onnx import helper
from tvm import relax

from pipeline.compiler.execute import Executor
from pipeline.compiler.legalize import legalize
from pipeline.errors import ModelError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program, TensorSpec
from pipeline.passes.lowering.replace_sorts import replace_sorts
from tests.models import ModelBuilder, import_test_model, run_onnx


def module_of(*shapes: tuple[int, ...], result: Callable[..., relax.Expr]) -> tvm.IRModule:
    """Return a module whose `main` computes one expression of float32 tensors."""
    params = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(result(*params), "y"))
        builder.emit_func_output(y)
    return builder.get()


def run(module: tvm.IRModule, x: np.ndarray) -> np.ndarray:
    y = Dataflow.of(module).outputs[0]
    shape = tuple(int(d) for d in y.ty.shape)
    spec = TensorSpec("x0", x.shape, "float32"), TensorSpec("y", shape, str(y.ty.dtype))
    return Executor(Program(module, spec[:1], spec[1:], "test", "0" * 64)).run({"x0": x})["y"]


def drawn(probabilities: relax.Expr, uniform: relax.Expr) -> relax.Expr:
    rows = relax.const(np.zeros((2, 1), "int64"))
    return relax.op.multinomial_from_uniform(probabilities, uniform, rows)


def selected(boxes: relax.Expr, scores: relax.Expr) -> relax.Expr:
    limits = (relax.const(np.float32(0.5)), relax.const(np.float32(0.1)))
    return relax.op.vision.all_class_non_max_suppression(boxes, scores, relax.const(np.int64(3)), *limits)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_tensors_are_sorted_along_any_axis(axis: int, descending: bool) -> None:
    x = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype("float32")
    sign = -1 if descending else 1
    module = module_of(x.shape, result=lambda x: relax.op.sort(x, axis, descending))
    np.testing.assert_array_equal(run(module, x), sign * np.sort(sign * x, axis))
    module = module_of(x.shape, result=lambda x: relax.op.argsort(x, axis, descending, "int64"))
    np.testing.assert_array_equal(run(module, x), np.argsort(sign * x, axis, kind="stable"))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("largest", [0, 1])
def test_the_first_of_a_sorted_tensor_are_those_of_onnx(axis: int, largest: int) -> None:
    b = ModelBuilder()
    count = b.constant(np.array([3]))
    b.nodes.append(helper.make_node("TopK", ["x", count], ["values", "places"], axis=axis, largest=largest))
    # An integer output can't be declared as float32.
    model = b.model({"x": [3, 4, 5]}, "values", b.node("Cast", "places", to=1))
    x = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype("float32")
    actual = Executor(import_test_model(model)).run({"x": x})
    for value, expected in zip(actual.values(), run_onnx(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_sums_on_the_way_are_those_of_onnx(exclusive: int, reverse: int) -> None:
    b = ModelBuilder()
    attributes = {"exclusive": exclusive, "reverse": reverse}
    model = b.model({"x": [3, 4, 5]}, b.node("CumSum", "x", b.constant(np.array(1)), **attributes))
    x = np.random.default_rng(0).integers(-9, 9, (3, 4, 5)).astype("float32")
    (actual,) = Executor(import_test_model(model)).run({"x": x}).values()
    np.testing.assert_array_equal(actual, run_onnx(model, {"x": x})[0])


@pytest.mark.parametrize(("function", "oracle"), [(relax.op.maximum, np.maximum), (relax.op.minimum, np.minimum)])
def test_limits_of_two_tensors_keep_nan(function: Callable[..., relax.Expr], oracle: np.ufunc) -> None:
    x = np.array([[np.nan, 1, np.inf, 0]], "float32")
    module = module_of(x.shape, result=lambda x: function(x, relax.op.permute_dims(x)))
    np.testing.assert_array_equal(run(module, x), oracle(x, x.T))


def test_no_sort_is_left_to_functions_of_the_compiler() -> None:
    module = module_of((3, 4), result=lambda x: relax.op.topk(x, 2))
    assert not any("topk" in b.operator for b in Dataflow.of(replace_sorts(module)).bindings)


@pytest.mark.parametrize(
    ("kernel", "module"),
    [
        ("multinomial_from_uniform", module_of((2, 4), (2, 1), result=drawn)),
        ("tvm.contrib.sort.argsort", module_of((1, 6, 4), (1, 1, 6), result=selected)),
    ],
)
def test_what_libraries_cannot_compute_is_refused_by_name(kernel: str, module: tvm.IRModule) -> None:
    with pytest.raises(ModelError, match=f"Tensor 'y' can't be computed by a library: there is no kernel for {kernel}"):
        legalize(module)
