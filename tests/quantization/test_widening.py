"""Activations of 16 bits: which ones, why not the others, and what they gain."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from pipeline.api import quantize
from pipeline.distances import Distance
from pipeline.errors import OptionError, TableError
from pipeline.ir.dataflow import Dataflow, operator_name
from pipeline.ir.program import Program
from pipeline.quantization.annotate import AnnotateOptions, Annotation, annotate
from pipeline.quantization.calibrate import calibrate
from pipeline.quantization.realize import realize
from pipeline.quantization.widening import wide_tensors
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model, small_network


def layers(softmax: bool = False) -> Program:
    """Return x -> c1 -> sigmoid h -> c2 -> y, whose c1 is wide; with a softmax s in front of c2 if wanted."""
    b, random = ModelBuilder(), np.random.default_rng(0)

    def conv(x: str, name: str, scale: float) -> str:
        weight = (random.standard_normal((8, 8, 1, 1)) * scale).astype("float32")
        return b.node("Conv", x, b.constant(weight), name=name)

    h = b.node("Sigmoid", conv("x", "c1", 20.0), name="h")
    c2 = b.node("Relu", conv(b.node("Softmax", h, axis=-1, name="s") if softmax else h, "c2", 0.3), name="y")
    return import_test_model(b.model({"x": (1, 8, 4, 6)}, conv(c2, "z", 0.3)))


def dtypes(annotation: Annotation) -> dict[str, str]:
    return {t.name: t.spec.dtype for t in annotation.calibrated() if t.spec is not None}


def samples(count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.standard_normal((1, 8, 4, 6)).astype("float32") for _ in range(count)]


def sqnr(program: Program, **options: object) -> float:
    quantized = quantize(program, samples(), effort="none", algorithm="abs_max", **options)
    distance = Distance()
    for x in samples():
        (expected,), (actual,) = (execute(p, {"x": x}).values() for p in (program, quantized.program))
        distance.update(expected, actual)
    return distance.sqnr_db


@pytest.mark.parametrize("word", ["c1", "conv2d", "Conv", "C1", "c?"])
def test_tensors_are_named_as_operators_that_write_them(word: str) -> None:
    found = dtypes(annotate(layers(), AnnotateOptions(keep_16=[word])))
    assert found["c1"] == "int16"
    assert found["h"] == "uint8"


def test_an_input_is_named_by_its_own_name() -> None:
    b = ModelBuilder()
    y = b.node("MatMul", "x", b.constant(np.ones((4, 4), "float32")), name="y")
    found = dtypes(annotate(import_test_model(b.model({"x": (3, 4)}, y)), AnnotateOptions(keep_16=["x"])))
    assert found == {"x": "int16"}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(OptionError, match=r"Unknown operator 'c3' in the tensors to keep in 16 bits \(--keep-16\)"):
        annotate(layers(), AnnotateOptions(keep_16=["c3"]))


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(OptionError, match=r"Unknown activation_bits '12'\. Known: 16, 8"):
        AnnotateOptions(activation_bits=12)


def test_16_bits_are_for_all_activations_of_a_network() -> None:
    assert set(dtypes(annotate(layers(), AnnotateOptions(activation_bits=16))).values()) == {"int16"}


def test_what_an_operator_has_no_form_for_stays_in_8_bits_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        annotation = annotate(layers(softmax=True), AnnotateOptions(keep_16=["c1", "h", "s"]))
    found = dtypes(annotation)
    assert (found["c1"], found["h"], found["s"]) == ("int16", "uint8", "uint8")
    tensor = annotation.tensor("h")
    assert tensor is not None
    assert tensor.reason.endswith("; it stays in 8 bits, as softmax 's', which reads it, has no form with 16 bits")
    assert "Tensors that stay in 8 bits, although 16 are wanted: " in caplog.text


def test_of_the_operands_of_a_matrix_product_one_has_16_bits() -> None:
    b = ModelBuilder()
    left, right = (b.node("MatMul", "x", b.constant(np.eye(4, dtype="float32")), name=n) for n in "ab")
    product = b.node("MatMul", left, right, name="p")
    program = import_test_model(b.model({"x": (4, 4)}, b.node("MatMul", product, left)))
    annotation = annotate(program, AnnotateOptions(keep_16=["a", "b"]))
    assert (dtypes(annotation)["a"], dtypes(annotation)["b"]) == ("int16", "uint8")


def test_one_wide_tensor_in_16_bits_brings_the_output_closer_to_float() -> None:
    program = layers()
    assert sqnr(program, keep_16=["c1"]) > sqnr(program) + 1


def test_with_16_bits_only_weights_are_rounded() -> None:
    """What is left is the error of weights, which activations without any rounding have as well."""
    program = layers()
    quantized = quantize(program, samples(), effort="none", activation_bits=16)
    assert sqnr(program, activation_bits=16) > sqnr(program) + 5
    assert all(t.dtype == "int16" and t.zero_point == 0 for t in quantized.table.tensors.values())


@pytest.mark.parametrize(("inputs", "bytes_apart"), [(500, False), (600, True)])
def test_bytes_are_multiplied_apart_where_sums_could_exceed_32_bits(inputs: int, bytes_apart: bool) -> None:
    """With all weights 127, and values of up to 32639, that is from 519 products on."""
    b, x = ModelBuilder(), np.ones((1, inputs), "float32")
    program = import_test_model(b.model({"x": x.shape}, b.node("MatMul", "x", b.constant(np.ones((inputs, 3), "f4")))))
    quantized = quantize(program, [x], effort="none", activation_bits=16)
    operators = {operator_name(b.value) for b in Dataflow.of(quantized.program.module).bindings}
    assert ("qnn.join_sums" in operators) == bytes_apart
    (result,) = execute(quantized.program, {"x": x}).values()
    np.testing.assert_allclose(result, inputs, rtol=1e-5)


def test_a_table_of_8_bits_is_refused_for_16() -> None:
    program = layers()
    table = calibrate(program, annotate(program), samples())
    with pytest.raises(TableError, match=r"has tensor 'c1' in uint8, the annotation in int16\. Calibrate again"):
        realize(program, annotate(program, AnnotateOptions(keep_16=["c1"])), table)


def test_a_table_says_which_tensors_have_16_bits(tmp_path: object) -> None:
    program = layers()
    table = calibrate(program, annotate(program, AnnotateOptions(keep_16=["c1"])), samples())
    assert [name for name, entry in table.tensors.items() if entry.dtype == "int16"] == ["c1"]
    assert table.to_json().count('"dtype"') == 1


def test_every_operator_of_a_network_is_computed_with_16_bits_or_named(caplog: pytest.LogCaptureFixture) -> None:
    annotation = annotate(import_test_model(small_network()), AnnotateOptions(activation_bits=16))
    left = {t.name for t in annotation.calibrated() if t.spec is not None and t.spec.dtype == "uint8"}
    assert {t.name for t in annotation.tensors if "it stays in 8 bits" in t.reason} == left
    assert 0 < len(left) < len(annotation.calibrated()) / 2


def test_a_name_to_keep_in_16_bits_that_changes_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    annotate(layers(), AnnotateOptions(keep_16=["c1", "z"]))
    assert "--keep-16 z has no effect: 'z' stays in float, as no int8 operator reads it" in caplog.text
    assert "c1 has" not in caplog.text


def test_sums_that_a_hard_swish_reads_are_named_with_what_to_keep_instead(caplog: pytest.LogCaptureFixture) -> None:
    b, weight = ModelBuilder(), np.ones((8, 8, 1, 1), "float32")
    sums = b.node("Conv", "x", b.constant(weight), name="sums")
    y = b.node("Conv", b.node("HardSwish", sums, name="h"), b.constant(weight), name="y")
    program = import_test_model(b.model({"x": (1, 8, 4, 6)}, y))
    annotate(program, AnnotateOptions(keep_16=["sums"]))
    assert "--keep-16 sums has no effect: 'sums' is a layer's sums in float32, which the hard-swish 'h'" in caplog.text
    assert "keep 'h', or what the layer reads, 'x.permuted', in its place" in caplog.text
    annotation = annotate(program, AnnotateOptions(keep_16=["h", "x.permuted"]))
    assert dtypes(annotation) == {"h": "int16", "x.permuted": "int16"}


@pytest.mark.parametrize(
    ("word", "tensor"),
    [("c", "relu"), ("relu", "relu"), ("sum", "added"), ("pooled", "pooled"), ("part", "part"), ("max*", "pooled")],
)
def test_what_is_fused_or_shares_a_scale_has_16_bits_by_any_of_its_names(
    word: str, tensor: str, caplog: pytest.LogCaptureFixture
) -> None:
    b = ModelBuilder()

    def conv(x: str, name: str, channels: int = 8) -> str:
        return b.node("Conv", x, b.constant(np.ones((8, channels, 1, 1), "float32")), name=name)

    stem = conv("x", "stem")
    relu = b.node("Relu", conv(stem, "c"), name="relu")
    added = b.node("Relu", b.node("Add", relu, stem, name="sum"), name="added")
    pooled = b.node("MaxPool", added, kernel_shape=[2, 2], name="pooled")
    joined = b.node("Concat", conv(pooled, "part"), pooled, axis=1, name="joined")
    program = import_test_model(b.model({"x": (1, 8, 4, 6)}, conv(joined, "y", 16)))
    assert tensor in wide_tensors(annotate(program, AnnotateOptions(keep_16=[word])))
    assert "no effect" not in caplog.text
