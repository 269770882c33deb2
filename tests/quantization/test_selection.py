"""Which operators a word means: names of nodes and outputs, types of ONNX, Paddle and reports, patterns."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from pipeline.errors import OptionError, TableError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate
from pipeline.quantization.annotation import OperatorDecision
from pipeline.quantization.rules import kinds as known_kinds
from pipeline.quantization.selection import ONNX_KINDS, PADDLE_KINDS, absent_types, select, with_names
from pipeline.schema import to_json
from tests.models import ModelBuilder, import_test_model


@pytest.fixture(scope="module")
def program() -> Program:
    """Return conv, batch norm, relu - depthwise, sigmoid - add - pool - product with weights; nodes have names."""
    b = ModelBuilder()
    random = np.random.default_rng(0)

    def weight(*shape: int) -> str:
        return b.constant(random.standard_normal(shape).astype("float32"))

    def called(name: str, output: str) -> str:
        b.nodes[-1].name = name
        return output

    x = called("/stem/conv/Conv", b.node("Conv", "x", weight(4, 3, 1, 1), name="stem_conv"))
    x = called("/stem/bn/Bn", b.node("BatchNormalization", x, *(weight(4) for _ in "abc"), b.constant(np.ones(4, "f"))))
    stem = called("/stem/act/Relu", b.node("Relu", x, name="stem_relu"))
    x = called("/block/dw/Conv", b.node("Conv", stem, weight(4, 1, 3, 3), group=4, pads=[1] * 4, name="dw_out"))
    x = called("/block/act/Sigmoid", b.node("Sigmoid", x, name="sigmoid_out"))
    x = called("/block/Add", b.node("Add", x, stem, name="sum"))
    x = called("/pool/GlobalAveragePool", b.node("GlobalAveragePool", x, name="pooled"))
    x = called("", b.node("Flatten", x, name="flat"))
    x = called("/head/Gemm", b.node("Gemm", x, weight(5, 4), transB=1, name="scores"))
    return import_test_model(b.model({"x": (1, 3, 8, 8)}, x))


CONV, DEPTHWISE, SIGMOID, ADD, POOL, HEAD = "stem_relu", "dw_out", "sigmoid_out", "sum", "pooled", "scores"

MEANINGS: dict[str, set[str]] = {
    # Names: of nodes, of outputs, of what is fused into an operator.
    "/stem/conv/Conv": {CONV},
    "/stem/act/Relu": {CONV},
    "stem_conv": {CONV},
    "stem_relu": {CONV},
    "/HEAD/gemm": {HEAD},
    # ONNX types. A fused Relu isn't an operator of its own.
    "Conv": {CONV, DEPTHWISE},
    "conv": {CONV, DEPTHWISE},
    "GEMM": {HEAD},
    "Sigmoid": {SIGMOID},
    "GlobalAveragePool": {POOL},
    # Paddle's.
    "mul": {HEAD},
    "fc": {HEAD},
    "matmul_v2": {HEAD},
    "depthwise_conv2d": {DEPTHWISE},
    "elementwise_add": {ADD},
    "pool2d": {POOL},
    # Those of reports.
    "conv2d": {CONV},
    "dense": {HEAD},
    "unary": {SIGMOID},
    # Patterns.
    "/block/*": {DEPTHWISE, SIGMOID, ADD},
    "/*/dw/*": {DEPTHWISE},
    "*conv2d": {CONV, DEPTHWISE},
    "s?m": {ADD},
}


@pytest.mark.parametrize(("word", "meant"), MEANINGS.items(), ids=list(MEANINGS))
def test_a_word_means(program: Program, word: str, meant: set[str]) -> None:
    assert select(program, [word], "skip") == meant


def test_words_together_mean_what_each_means(program: Program) -> None:
    assert select(program, ["Gemm", "/block/Add"], "skip") == {HEAD, ADD}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("/head/Gem", "Did you mean '/head/Gemm'"),
        ("depthwise_conv", "Did you mean 'depthwise_conv2d'"),
        ("/tail/*", "no operator of the model has that name or type"),
        ("Relu", "Types in this model: Add, Conv, "),
        ("conv2d_transpose", "Types in this model: "),
        ("elementwise_mul", "Types in this model: "),
    ],
)
def test_a_word_that_means_nothing_is_an_error_that_says_what_there_is(
    program: Program, word: str, message: str
) -> None:
    with pytest.raises(OptionError, match=f"Unknown operator .* in skip: .*{message}"):
        select(program, [word], "skip")


def test_among_types_to_quantize_those_that_the_model_lacks_stand_for_none(program: Program) -> None:
    paddleslims = ["conv2d", "depthwise_conv2d", "conv2d_transpose", "mul", "matmul", "matmul_v2"]
    assert select(program, paddleslims, "operators", types_first=True) == {CONV, DEPTHWISE, HEAD}
    assert absent_types(program, paddleslims) == ["conv2d_transpose", "matmul"]
    with pytest.raises(OptionError, match="Unknown operator 'conv2d_transpose'"):
        select(program, ["conv2d_transpose", "matmul"], "operators", types_first=True)
    with pytest.raises(OptionError, match="Unknown operator 'conv3d'"):
        select(program, ["conv2d", "conv3d"], "operators", types_first=True)


def test_a_type_that_is_known_as_it_is_spelled_is_no_other_one() -> None:
    b = ModelBuilder()
    y = b.node("Mul", "x", "z", name="product")
    program = import_test_model(b.model({"x": (1, 2), "z": (1, 2)}, y))
    assert select(program, ["Mul"], "skip") == select(program, ["MUL"], "skip") == {"product"}
    with pytest.raises(OptionError, match="Unknown operator 'mul'"):
        select(program, ["mul"], "skip")


def test_a_name_is_a_name_in_a_skip_list_and_a_type_among_types_to_quantize() -> None:
    b = ModelBuilder()
    weights = [b.constant(np.full((2, 2, 1, 1), v, "float32")) for v in (1, 2)]
    x = b.node("Conv", b.node("Conv", "x", weights[0], name="first"), weights[1], name="conv2d")
    program = import_test_model(b.model({"x": (1, 2, 3, 3)}, x))
    assert select(program, ["conv2d"], "skip") == {"conv2d"}
    assert select(program, ["conv2d"], "operators", types_first=True) == {"first", "conv2d"}


def int8(program: Program, operators: Collection[str] | None = None, skip: Collection[str] = ()) -> set[str]:
    decided = annotate(program, AnnotateOptions(operators=operators, skip=skip)).operators
    return {o.name for o in decided if o.precision == "int8"} & {CONV, DEPTHWISE, SIGMOID, ADD, POOL, HEAD}


def test_options_take_all_of_these(program: Program) -> None:
    everything = {CONV, DEPTHWISE, SIGMOID, ADD, POOL, HEAD}
    assert int8(program) == everything
    assert int8(program, operators=["Conv", "mul"]) == {CONV, DEPTHWISE, HEAD}
    assert int8(program, operators=["Conv", "mul"], skip=["/head/*"]) == {CONV, DEPTHWISE}


def test_annotation_files_take_all_of_these(program: Program, tmp_path: Path) -> None:
    annotation = annotate(program)
    edited = [
        *annotation.operators,
        OperatorDecision(name="Conv", precision="float32"),
        OperatorDecision(name="/stem/conv/Conv", precision="int8"),
    ]
    replace(annotation, operators=tuple(edited)).save(tmp_path / "a.json")
    resolved = with_names(Annotation.load(tmp_path / "a.json"), program)
    precisions = {o.name: o.precision for o in resolved.operators}
    assert (precisions[CONV], precisions[DEPTHWISE], precisions[HEAD]) == ("int8", "float32", "int8")
    assert [o.name for o in resolved.operators] == [o.name for o in annotation.operators]
    resolved.save(tmp_path / "b.json")
    assert Annotation.load(tmp_path / "b.json") == resolved


def test_an_annotation_by_the_operators_own_names_is_taken_as_it_is(program: Program) -> None:
    annotation = annotate(program)
    assert with_names(annotation, program) is annotation


def test_the_later_of_two_decisions_holds(program: Program) -> None:
    annotation = annotate(program)
    again = OperatorDecision(name=CONV, precision="float32")
    resolved = with_names(replace(annotation, operators=(*annotation.operators, again)), program)
    assert [o.name for o in resolved.operators] == [o.name for o in annotation.operators]
    assert {o.name: o.precision for o in resolved.operators}[CONV] == "float32"


def test_operators_without_a_decision_stay_in_float_and_are_listed(program: Program) -> None:
    annotation = annotate(program)
    fewer = tuple(o for o in annotation.operators if o.name != HEAD)
    resolved = with_names(replace(annotation, operators=fewer), program)
    assert [o.name for o in resolved.operators] == [o.name for o in annotation.operators]
    head = next(o for o in resolved.operators if o.name == HEAD)
    assert (head.precision, head.reason) == ("float32", "the annotation doesn't name it")


def test_a_tensor_that_is_listed_twice_is_refused(program: Program, tmp_path: Path) -> None:
    text = to_json(annotate(program))
    data = json.loads(text)
    data["tensors"].append(data["tensors"][0])
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(TableError, match=f"tensor {data['tensors'][0]['name']!r} is listed twice"):
        Annotation.load(tmp_path / "a.json")


def test_an_annotation_that_names_what_there_is_not_is_refused(program: Program) -> None:
    wrong = OperatorDecision(name="/heat/*", precision="float32")
    annotation = replace(annotate(program), operators=(wrong,))
    with pytest.raises(TableError, match=r"Unknown operator '/heat/\*' in the annotation"):
        with_names(annotation, program)


@pytest.mark.parametrize("table", [ONNX_KINDS, PADDLE_KINDS], ids=["onnx", "paddle"])
def test_types_stand_for_types_of_reports(table: dict[str, tuple[str, ...]]) -> None:
    assert {kind for kinds in table.values() for kind in kinds} <= set(known_kinds())


def test_onnx_types_are_onnx_types() -> None:
    assert set(ONNX_KINDS) <= {schema.name for schema in onnx.defs.get_all_schemas()} | {"Upsample"}
