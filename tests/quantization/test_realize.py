"""Realized programs: integers in between, close to float, and honest where they stay in float."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tvm_ffi
from msgspec.structs import replace

from pipeline.errors import TableError
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate
from pipeline.quantization.calibrate import CalibrationTable, calibrate
from pipeline.quantization.realize import realize
from pipeline.quantization.spec import weight_spec
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model, small_network


def samples() -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(6):
        yield random.standard_normal((1, 3, 12, 12)).astype("float32")


@pytest.fixture(scope="module")
def program() -> Program:
    return import_test_model(small_network())


@pytest.fixture(scope="module")
def table(program: Program) -> CalibrationTable:
    return calibrate(program, annotate(program), samples)


def test_only_integers_stand_between_quantize_and_dequantize(program: Program, table: CalibrationTable) -> None:
    realized, _ = realize(program, annotate(program), table)
    flow = Dataflow.of(realized.module)
    operators = [b.operator for b in flow.bindings]
    assert operators.count("qnn.quantize") == 1
    inside = flow.bindings[operators.index("qnn.quantize") : -1]
    sums = {b.value.args[0] for b in inside if b.operator == "qnn.hard_swish"}
    assert {tensor_type(b.var).dtype for b in inside if b.var not in sums} == {"uint8"}
    assert flow.bindings[-1].operator == "qnn.dense"
    assert tensor_type(flow.bindings[-1].var).dtype == "float32", "the classifier's sums aren't rounded to 8 bits"


def test_outputs_are_close_to_float(program: Program, table: CalibrationTable) -> None:
    realized, _ = realize(program, annotate(program), table)
    for x in samples():
        exact, quantized = (execute(p, {"x": x})["scores"] for p in (program, realized))
        assert ((exact - quantized) ** 2).sum() < 0.01 * (exact**2).sum()


def test_a_skipped_operator_stands_between_dequantize_and_quantize(program: Program, table: CalibrationTable) -> None:
    full = annotate(program)
    skipped = next(o.name for o in full.operators if o.operator == "depthwise_conv2d")
    annotation = annotate(program, AnnotateOptions(skip=[skipped]))
    realized, _ = realize(program, annotation, calibrate(program, annotation, samples))
    operators = [b.operator for b in Dataflow.of(realized.module).bindings]
    assert operators.count("nn.conv2d") == 1
    assert operators.count("qnn.quantize") == 2


def test_what_the_scales_do_not_allow_stays_in_float_and_is_reported() -> None:
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(np.ones((2, 3, 1, 1), "float32")), name="y")
    y = b.node("Conv", y, b.constant(np.ones((2, 2, 1, 1), "float32")), name="z")
    program = import_test_model(b.model({"x": (1, 3, 2, 2)}, y))
    annotation = annotate(program)
    table = calibrate(program, annotation, [np.ones((1, 3, 2, 2), "float32")])
    tiny = replace(table.tensors["y"], scale=1e-12)
    edited = replace(table, tensors={**table.tensors, "y": tiny})
    _, outcome = realize(program, annotation, edited)
    decision = outcome.operator("y")
    assert decision is not None
    assert (decision.precision, "output's scale is too small" in decision.reason) == ("float32", True)


def test_attention_is_computed_in_integers() -> None:
    random = np.random.default_rng(0)
    b = ModelBuilder()
    queries, keys, values = (
        b.node("MatMul", "x", b.constant(random.standard_normal((24, 24)).astype("float32") / 5)) for _ in range(3)
    )
    scores = b.node("Softmax", b.node("MatMul", queries, b.node("Transpose", keys, perm=[0, 2, 1])), axis=-1)
    program = import_test_model(b.model({"x": (2, 10, 24)}, b.node("MatMul", scores, values, name="y")))
    annotation = annotate(program)
    tokens = [random.standard_normal((2, 10, 24)).astype("float32") for _ in range(4)]
    realized, _ = realize(program, annotation, calibrate(program, annotation, tokens))
    operators = [binding.operator for binding in Dataflow.of(realized.module).bindings]
    assert operators == ["qnn.quantize", *["qnn.dense"] * 3, "qnn.matmul", "qnn.softmax", "qnn.matmul"]
    for x in tokens:
        exact, quantized = (execute(p, {"x": x})["y"] for p in (program, realized))
        assert ((exact - quantized) ** 2).sum() < 0.01 * (exact**2).sum()


def sloped_network(slope: np.ndarray) -> Program:
    random = np.random.default_rng(0)
    b = ModelBuilder()
    first, second = (b.constant(random.standard_normal((4, 4, 1, 1)).astype("float32")) for _ in range(2))
    sloped = b.node("PRelu", b.node("Conv", "x", first, name="c"), b.constant(slope), name="p")
    return import_test_model(b.model({"x": (1, 4, 6, 6)}, b.node("Conv", sloped, second, name="y")))


def test_prelu_with_a_slope_for_each_channel_is_one_integer_operator() -> None:
    program = sloped_network(np.array([0.25, -0.5, 0.0, 1.5], "float32").reshape(4, 1, 1))
    annotation = annotate(program)
    images = [np.random.default_rng(i).standard_normal((1, 4, 6, 6)).astype("float32") for i in range(4)]
    table = calibrate(program, annotation, images)
    realized, _ = realize(program, annotation, table)
    operators = [binding.operator for binding in Dataflow.of(realized.module).bindings]
    assert [o for o in operators if o.startswith("qnn.")] == ["qnn.quantize", "qnn.conv2d", "qnn.prelu", "qnn.conv2d"]
    for x in images:
        exact, quantized = (execute(p, {"x": x})["y"] for p in (program, realized))
        assert ((exact - quantized) ** 2).sum() < 0.001 * (exact**2).sum()


def test_slopes_that_the_scales_do_not_allow_stay_in_float() -> None:
    program = sloped_network(np.array([0.25, -0.5, 0.0, 1.5], "float32").reshape(4, 1, 1))
    annotation = annotate(program)
    table = calibrate(program, annotation, [np.ones((1, 4, 6, 6), "float32")])
    tiny = replace(table.tensors["p"], scale=1e-12)
    _, outcome = realize(program, annotation, replace(table, tensors={**table.tensors, "p": tiny}))
    decision = outcome.operator("p")
    assert decision is not None
    assert (decision.precision, "output's scale is too small" in decision.reason) == ("float32", True)


def test_a_table_without_a_tensor_is_refused(program: Program, table: CalibrationTable) -> None:
    (removed, *_), rest = list(table.tensors), dict(table.tensors)
    del rest[removed]
    with pytest.raises(TableError, match=f"no entry for tensor '{removed}'"):
        realize(program, annotate(program), replace(table, tensors=rest))


def edited(annotation: Annotation, operator: str, /, **changes: object) -> Annotation:
    operators = [replace(o, **changes) if o.name == operator else o for o in annotation.operators]
    return replace(annotation, operators=tuple(operators))


def test_an_annotation_that_was_edited_is_followed(program: Program, table: CalibrationTable) -> None:
    annotation = annotate(program)
    name = next(o.name for o in annotation.operators if o.operator == "dense")
    realized, _ = realize(program, edited(annotation, name, precision="float32"), table)
    assert Dataflow.of(realized.module).bindings[-1].operator == "nn.dense"


def test_an_annotation_for_another_model_is_refused(program: Program, table: CalibrationTable) -> None:
    annotation = annotate(program)
    name = annotation.operators[-1].name
    with pytest.raises(TableError, match="Unknown operator 'else'"):
        realize(program, edited(annotation, name, name="else"), table)


def test_an_annotation_that_asks_for_the_impossible_is_refused(program: Program, table: CalibrationTable) -> None:
    annotation = annotate(program)
    name = next(o.name for o in annotation.operators if o.operator == "transpose")
    with pytest.raises(TableError, match="isn't among the 8-bit tensors"):
        realize(program, edited(annotation, name, precision="int8"), table)


def test_weights_are_quantized_as_their_specification_says(program: Program, table: CalibrationTable) -> None:
    annotation = annotate(program)
    wanted, _ = realize(program, annotate(program, AnnotateOptions(per_channel=False)), table)
    operators = [o if o.weights is None else replace(o, weights=weight_spec(False)) for o in annotation.operators]
    found, _ = realize(program, replace(annotation, operators=tuple(operators)), table)
    assert tvm_ffi.structural_equal(found.module, wanted.module, map_free_vars=True)


def test_weights_that_cannot_be_computed_yet_are_refused(program: Program, table: CalibrationTable) -> None:
    annotation = annotate(program)
    name = next(o.name for o in annotation.operators if o.weights is not None)
    asymmetric = replace(weight_spec(True), symmetric=False)
    with pytest.raises(TableError, match=f"weights of '{name}' can't be quantized as it says: .* symmetric"):
        realize(program, edited(annotation, name, weights=asymmetric), table)
