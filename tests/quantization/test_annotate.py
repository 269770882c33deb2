"""What becomes int8, what doesn't, and why."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from pipeline.errors import OptionError, TableError
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate
from pipeline.quantization.spec import ObserverSpec, QuantizationSpec
from tests.models import ModelBuilder, import_test_model, small_network


def conv(b: ModelBuilder, x: str, name: str, channels: int = 4) -> str:
    weight = np.full((channels, channels, 1, 1), 1.0 + len(b.weights), "float32")
    return b.node("Conv", x, b.constant(weight), name=name)


def decisions(annotation: Annotation) -> dict[str, str]:
    return {o.name: o.precision for o in annotation.operators}


def test_a_whole_network_is_integer_between_its_input_and_its_output() -> None:
    annotation = annotate(import_test_model(small_network()))
    left = [o for o in annotation.operators if o.precision == "float32"]
    assert [(o.operator, o.reason) for o in left] == [("transpose", "its input 'x' isn't 8-bit")]


def test_a_bridge_needs_8_bit_tensors_on_both_sides() -> None:
    b = ModelBuilder()
    before = b.node("Tanh", "x", name="before")
    between = b.node("Tanh", conv(b, before, "c1"), name="between")
    after = b.node("Tanh", conv(b, between, "c2"), name="after")
    annotation = annotate(import_test_model(b.model({"x": (1, 4, 3, 3)}, after)))
    found = decisions(annotation)
    assert (found["before"], found["between"], found["after"]) == ("float32", "int8", "float32")
    after_decision = annotation.operator("after")
    assert after_decision is not None
    assert after_decision.reason == "nothing that reads it is int8"


def test_an_operator_without_an_integer_form_says_so() -> None:
    b = ModelBuilder()
    y = conv(b, b.node("CumSum", conv(b, "x", "c1"), b.constant(np.int64(1)), name="s"), "c2")
    decision = annotate(import_test_model(b.model({"x": (1, 4, 3, 3)}, y))).operator("s")
    assert decision is not None
    assert decision.reason == "there is no integer form of cumsum"


def test_operators_in_the_skip_list_stay_in_float() -> None:
    b = ModelBuilder()
    y = conv(b, conv(b, "x", "c1"), "c2")
    program = import_test_model(b.model({"x": (1, 4, 3, 3)}, y))
    found = decisions(annotate(program, AnnotateOptions(skip=["c1"])))
    assert (found["c1"], found["c2"]) == ("float32", "int8")


def test_only_the_wanted_types_become_int8() -> None:
    annotation = annotate(import_test_model(small_network()), AnnotateOptions(operators=["dense"]))
    assert {o.operator for o in annotation.operators if o.precision == "int8"} == {"dense"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (AnnotateOptions(operators=["conv3d"]), "Unknown operator 'conv3d' in operators.*Did you mean 'conv2d'"),
        (AnnotateOptions(skip=["nowhere"]), "Unknown operator 'nowhere' in the skip list"),
    ],
    ids=["type", "name"],
)
def test_unknown_names_are_errors(options: AnnotateOptions, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        annotate(import_test_model(small_network()), options)


def test_a_sum_that_could_exceed_32_bits_stays_in_float() -> None:
    b = ModelBuilder()
    y = b.node("Gemm", "x", b.constant(np.ones((1, 40_000), "float32")), transB=1, name="y")
    decision = annotate(import_test_model(b.model({"x": (1, 40_000)}, y))).operator("y")
    assert decision is not None
    assert "could exceed 32 bits" in decision.reason


def test_products_of_activations_are_integers_unless_their_sums_could_exceed_32_bits() -> None:
    b = ModelBuilder()
    product = b.node("MatMul", "x", b.node("Transpose", "x", perm=[0, 2, 1]), name="p")
    model = b.model({"x": (1, 2, "depth")}, product)
    short, long = (annotate(import_test_model(model, x=(1, 2, depth))).operator("p") for depth in (16_000, 16_001))
    assert short is not None
    assert (short.precision, short.weights) == ("int8", None), "there are no weights"
    assert long is not None
    assert (long.precision, "could exceed 32 bits" in long.reason) == ("float32", True)


def test_a_softmax_stays_in_float_where_its_rows_are_too_long() -> None:
    b = ModelBuilder()
    soft = b.node("Softmax", b.node("MatMul", "x", "y"), axis=-1, name="s")
    model = b.model({"x": (2, 1), "y": (1, 70_000), "z": (1, 2)}, b.node("MatMul", "z", soft))
    decision = annotate(import_test_model(model)).operator("s")
    assert decision is not None
    assert (decision.precision, "too long" in decision.reason) == ("float32", True)


def test_a_tensor_after_a_relu_is_unsigned_and_others_are_signed() -> None:
    b = ModelBuilder()
    y = conv(b, conv(b, b.node("Relu", conv(b, "x", "c1"), name="r"), "c2"), "c3")
    annotation = annotate(import_test_model(b.model({"x": (1, 4, 3, 3)}, y)))
    specs = annotation.specs()
    assert (specs["r"].signed, specs["c2"].signed) == (False, True)


def test_a_moved_tensor_shares_its_scale() -> None:
    b = ModelBuilder()
    pooled = b.node("MaxPool", b.node("Relu", conv(b, "x", "c1"), name="r"), kernel_shape=[2, 2], name="p")
    annotation = annotate(import_test_model(b.model({"x": (1, 4, 4, 4)}, conv(b, pooled, "c2"))))
    assert annotation.source("p") == "r"


def test_a_resized_tensor_shares_its_scale() -> None:
    b = ModelBuilder()
    scales = b.constant(np.array([1, 1, 2, 2], "float32"))
    larger = b.node("Resize", b.node("Relu", conv(b, "x", "c1"), name="r"), "", scales, mode="linear", name="l")
    annotation = annotate(import_test_model(b.model({"x": (1, 4, 4, 4)}, conv(b, larger, "c2"))))
    assert annotation.source("l") == "r"
    assert not annotation.specs()["r"].signed


def test_the_parts_of_a_concat_share_its_scale_if_nothing_else_reads_them() -> None:
    b = ModelBuilder()
    left, right = conv(b, "x", "left"), conv(b, "x", "right")
    joined = b.node("Concat", left, right, axis=1, name="joined")
    y = b.node("Conv", joined, b.constant(np.ones((4, 8, 1, 1), "float32")), name="y")
    other = conv(b, left, "other")
    annotation = annotate(import_test_model(b.model({"x": (1, 4, 3, 3)}, y, other)))
    assert annotation.source("right") == "joined"
    assert annotation.source("left") == "left"


def test_the_program_is_not_changed() -> None:
    program = import_test_model(small_network())
    before = program.module.script()
    annotate(program)
    assert program.module.script() == before


def test_an_annotation_survives_its_file(tmp_path: Path) -> None:
    annotation = annotate(import_test_model(small_network()))
    annotation.save(tmp_path / "a.json")
    assert Annotation.load(tmp_path / "a.json") == Annotation.load(str(tmp_path / "a.json")) == annotation


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"operators": [], "tensors": [], "typo": 1}')
    with pytest.raises(TableError, match="typo"):
        Annotation.load(path)


def test_tensors_that_share_in_a_circle_are_refused() -> None:
    text = '{"operators": [], "tensors": [%s, %s]}'
    tensor = '{"name": "%s", "shares": "%s", "reason": ""}'
    annotation = msgspec.json.decode(text % (tensor % ("a", "b"), tensor % ("b", "a")), type=Annotation)
    with pytest.raises(TableError, match="circle"):
        annotation.source("a")


@pytest.mark.parametrize(
    "tensor",
    ['{"name": "a"}', '{"name": "a", "shares": "b", "spec": {}}'],
    ids=["neither", "both"],
)
def test_a_tensor_has_either_a_spec_or_another_ones_scale(tensor: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"operators": [], "tensors": [{tensor}]}}')
    with pytest.raises(TableError, match="'a' needs either a spec or the tensor"):
        Annotation.load(path)


def test_a_spec_can_be_written_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"operators": [], "tensors": [{"name": "a", "spec": {"observer": {"algorithm": "abs_max"}}}]}')
    spec = Annotation.load(path).specs()["a"]
    assert spec == QuantizationSpec(observer=ObserverSpec(algorithm="abs_max"))


@pytest.mark.parametrize(("algorithm", "expected"), [(None, "mse"), ("mse", "mse"), ("abs_max", None)])
def test_weights_of_4_bits_are_those_of_dense_layers(algorithm: str | None, expected: str | None) -> None:
    options = AnnotateOptions(weight_bits=4, weight_algorithm=algorithm)
    weights = {o.operator: o.weights for o in annotate(import_test_model(small_network()), options).operators}
    dense, convolution = weights["dense"], weights["conv2d"]
    assert dense is not None
    assert convolution is not None
    assert (dense.dtype, convolution.dtype) == ("int4", "int8")
    assert (dense.observer and dense.observer.algorithm) == expected


@pytest.mark.parametrize(("algorithm", "expected"), [("abs_max", None), ("mse", ObserverSpec(algorithm="mse"))])
def test_how_weights_scales_are_chosen_is_part_of_the_annotation(algorithm: str, expected: ObserverSpec | None) -> None:
    annotation = annotate(import_test_model(small_network()), AnnotateOptions(weight_algorithm=algorithm))
    weights = [o.weights for o in annotation.operators if o.weights is not None]
    assert weights
    assert all(spec.observer == expected for spec in weights)


def test_a_name_to_leave_in_float_that_is_there_without_it_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    b = ModelBuilder()
    program = import_test_model(b.model({"x": (1, 4, 3, 3)}, conv(b, b.node("Tanh", "x", name="before"), "c")))
    annotate(program, AnnotateOptions(skip=["before", "c"]))
    assert "--keep-float (--skip) before has no effect, as what it names stays in float without it" in caplog.text
    assert "before: its input 'x' isn't 8-bit" in caplog.text
    assert "(--skip) c " not in caplog.text
