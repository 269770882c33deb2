"""An import that computes something else than its ONNX file is refused; the error names the first such tensor."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.compiler.execute import Executor
from pipeline.errors import ModelError
from pipeline.importer import import_model
from pipeline.importer import verify as verification
from pipeline.importer.verify import ImportCheck, Run, example_feeds, relative_error, verify_import
from pipeline.ir.dataflow import Dataflow, DataflowBuilder, constant, make_constant
from pipeline.ir.program import Program
from tests.models import ModelBuilder, small_network


def verify(path: Path, program: Program) -> ImportCheck:
    return verify_import(path, program, lambda p: Executor(p).run, example_feeds(program.inputs))


@pytest.fixture(params=["with ONNX Runtime", "without"])
def evaluator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        return "ONNX reference"
    return "ONNX Runtime"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(small_network(), path)
    return path


def test_a_right_import_is_reported_with_its_evaluator_and_error(model: Path, evaluator: str) -> None:
    check = verify(model, import_model(model))
    assert check.evaluator is not None
    assert check.evaluator.startswith(evaluator)
    assert check.largest_error is not None
    assert check.largest_error < 1e-5
    assert check.seconds > 0


def with_changed_weights(program: Program, operator: str) -> Program:
    """Return the program with the first weights of `operator` doubled."""
    flow = Dataflow.of(program.module)
    builder = DataflowBuilder(program.module)
    changed = False
    for binding in flow.bindings:
        if binding.operator == operator and not changed:
            changed = True
            weights = constant(binding.value.args[1])
            assert weights is not None
            args = [*binding.value.args[:1], make_constant(weights * np.float32(2)), *binding.value.args[2:]]
            call = type(binding.value)(binding.value.op, args, binding.value.attrs, list(binding.value.ty_args))
            builder.values[binding.var] = builder.emit(builder.replaced(call), binding.var.name)
        else:
            builder.copy(binding)
    assert changed
    module = builder.finish([builder.replaced(o) for o in flow.outputs])
    return Program(module, program.inputs, program.outputs, program.name, program.source_sha256)


def test_a_wrong_import_is_refused_with_the_first_tensor_that_differs(tmp_path: Path, evaluator: str) -> None:
    b = ModelBuilder()
    random = np.random.default_rng(0)
    weights = [b.constant(random.standard_normal((4, 4, 3, 3)).astype("float32")) for _ in range(2)]
    first = b.node("Sigmoid", b.node("Conv", "x", weights[0], pads=[1, 1, 1, 1], name="first"), name="soft")
    b.node("Conv", first, weights[1], name="second")
    path = tmp_path / "two.onnx"
    onnx.save(b.model({"x": [1, 4, 6, 6]}, "second"), path)
    program = import_model(path)
    with pytest.raises(
        ModelError, match=f"'second' differs from what {evaluator}.*first tensor that differs is 'first'"
    ):
        verify(path, with_changed_weights(program, "nn.conv2d"))


@pytest.mark.parametrize(("inputs_off_by", "accepted"), [(2**-21, True), (2**-14, False)])
def test_where_rounding_is_all_that_a_sample_leaves_errors_of_its_size_are_accepted(
    tmp_path: Path, evaluator: str, inputs_off_by: float, accepted: bool
) -> None:
    b = ModelBuilder()
    b.node("Sub", "x", b.constant(np.float32(1)), name="difference")
    path = tmp_path / "difference.onnx"
    onnx.save(b.model({"x": [1, 4]}, "difference"), path)
    feeds = {"x": np.full((1, 4), 1 + 2**-15, "float32")}

    def make_run(program: Program) -> Run:
        return lambda given: Executor(program).run({"x": given["x"] * np.float32(1 + inputs_off_by)})

    program = import_model(path)
    with contextlib.nullcontext() if accepted else pytest.raises(ModelError, match="isn't imported correctly"):
        check = verify_import(path, program, make_run, feeds)
        assert check.largest_error == pytest.approx(2**-6, rel=0.1)


def test_an_evaluator_that_fails_another_time_leaves_a_difference_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = ModelBuilder()
    b.node("Sub", "x", b.constant(np.float32(1)), name="difference")
    path = tmp_path / "difference.onnx"
    onnx.save(b.model({"x": [1, 4]}, "difference"), path)
    results = iter([{"difference": np.zeros((1, 4), "float32")}])

    def run(*_: object) -> dict[str, np.ndarray]:
        for result in results:
            return result
        raise verification.EvaluationError("out of time")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(verification, "_run_reference", run)
    with pytest.raises(ModelError, match="isn't imported correctly"):
        verify(path, import_model(path))


def test_a_model_that_would_take_too_long_is_said_not_to_be_verified(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(verification, "REFERENCE_SECONDS", 0.0)
    check = verify(model, import_model(model))
    assert check.evaluator is None
    assert "would take longer than 0 seconds" in check.note


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        (np.float32([1, 2]), np.float32([1, 2.002]), 0.001),
        (np.float32([np.nan, 1]), np.float32([np.nan, 1]), 0.0),
        (np.float32([np.nan, 1]), np.float32([0, 1]), np.inf),
        (np.float32([np.inf, 1]), np.float32([-np.inf, 1]), np.inf),
        (np.float32([1]), np.float32([[1]]), np.inf),
        (np.float32([1]), np.float64([1]), np.inf),
        (np.int64([1, 2, 3, 4]), np.int64([1, 2, 3, 5]), 0.25),
        (np.float32([0, 0]), np.float32([0, 1e-10]), 1e-4),
        (np.zeros((0, 2), "float32"), np.zeros((0, 2), "float32"), 0.0),
    ],
)
def test_relative_error(expected: np.ndarray, actual: np.ndarray, error: float) -> None:
    assert relative_error(expected, actual) == pytest.approx(error, rel=1e-3)
