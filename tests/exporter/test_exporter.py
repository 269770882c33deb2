"""Exported models: ONNX takes them, and ONNX Runtime computes what ours does, up to its own rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import pipeline
from pipeline.api import Quantized, quantize
from pipeline.errors import ModelError
from pipeline.importer import import_proto
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.reference import execute
from tests.exporter.stepwise import compare_stepwise, exported, has_cubes
from tests.models import ModelBuilder, import_test_model, residual_network, run_exactly, small_network, tiny_network
from tests.networks.generate import random_network

Array = npt.NDArray[Any]
Nodes = Callable[[ModelBuilder], str]

STEPS = 1
"""How far an 8-bit result may be from ours, computed from the same values: one step, where a float product rounds to
the other side."""

EQUAL = 0.999
"""Share of the values that are equal all the same."""


def inputs(shape: tuple[int, ...], count: int = 3) -> list[dict[str, Array]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal(shape).astype("float32")} for _ in range(count)]


def weights(*shape: int) -> Array:
    random = np.random.default_rng(1)
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype("float32")


def quantized(model: onnx.ModelProto, samples: list[dict[str, Array]], **options: Any) -> Quantized:
    return quantize(import_test_model(model), samples, algorithm="abs_max", **options)


@pytest.fixture(scope="module")
def residual() -> Quantized:
    return quantized(residual_network(), inputs((2, 3, 40, 40)))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def test_every_operator_of_a_network_rounds_as_ours_does(residual: Quantized) -> None:
    for feeds in inputs((2, 3, 40, 40)):
        for tensor in compare_stepwise(residual, feeds):
            assert tensor.steps <= STEPS, tensor
            assert tensor.equal >= EQUAL, tensor


def test_bilinear_interpolation_is_within_a_step() -> None:
    # Ours has fractions of 8 bits.
    small = quantized(small_network(), inputs((1, 3, 12, 12)))
    for tensor in compare_stepwise(small, inputs((1, 3, 12, 12))[0]):
        assert tensor.steps <= STEPS, tensor
        assert tensor.equal >= (0.8 if tensor.tensor == "t17.quantized" else EQUAL), tensor


def conv(b: ModelBuilder, x: str, *shape: int, operator: str = "Conv", **more: Any) -> str:
    return b.node(operator, x, b.constant(weights(*shape)), b.constant(weights(shape[0])), **more)


def resized(b: ModelBuilder, scales: tuple[float, float], **more: Any) -> str:
    factors = b.constant(np.array([1, 1, *scales], "float32"))
    return conv(b, b.node("Resize", conv(b, "x", 8, 6, 3, 3), "", factors, **more), 4, 8, 1, 1)


def normalized(b: ModelBuilder) -> str:
    tokens = b.node("Transpose", b.node("Reshape", "x", b.constant(np.array([1, 6, -1]))), perm=[0, 2, 1])
    y = b.node("Add", b.node("MatMul", tokens, b.constant(weights(6, 7))), b.constant(weights(7)))
    y = b.node("LayerNormalization", y, b.constant(weights(7)), b.constant(weights(7)), axis=-1)
    return b.node("MatMul", b.node("Erf", y), b.constant(weights(7, 4)))


def split(b: ModelBuilder) -> str:
    y = conv(b, "x", 8, 6, 3, 3)
    bounds = [b.constant(np.array(v)) for v in ([2], [6], [1])]
    part = b.node("Slice", y, *bounds)
    return conv(
        b, b.node("Concat", part, b.node("Gather", y, b.constant(np.array([5, 0, 3])), axis=1), axis=1), 4, 7, 1, 1
    )


OPERATORS: dict[str, Nodes] = {
    "a float operator between": lambda b: conv(b, b.node("Softplus", conv(b, "x", 8, 6, 3, 3)), 4, 8, 1, 1),
    "activations": lambda b: conv(
        b,
        b.node(
            "Clip",
            conv(b, b.node("HardSwish", conv(b, "x", 8, 6, 1, 1)), 8, 8, 1, 1),
            b.constant(np.float32(-0.5)),
            b.constant(np.float32(0.5)),
        ),
        4,
        8,
        1,
        1,
    ),
    "averages": lambda b: conv(
        b, b.node("AveragePool", conv(b, "x", 8, 6, 1, 1), kernel_shape=[3, 3], pads=[1] * 4), 4, 8, 1, 1
    ),
    "blocks": lambda b: conv(b, b.node("DepthToSpace", conv(b, "x", 8, 6, 1, 1), blocksize=2, mode="CRD"), 4, 2, 1, 1),
    "corners": lambda b: resized(b, (2, 2), mode="linear", coordinate_transformation_mode="align_corners"),
    "depthwise": lambda b: conv(b, "x", 6, 1, 3, 3, group=6, pads=[1] * 4, strides=[2, 2], dilations=[2, 1]),
    "float images": lambda b: conv(
        b, b.node("Mul", b.node("Softplus", conv(b, "x", 8, 6, 1, 1)), b.constant(weights(8, 1, 1))), 4, 8, 1, 1
    ),
    "groups": lambda b: conv(b, conv(b, "x", 8, 6, 1, 1), 6, 4, 3, 3, group=2),
    "leaky": lambda b: conv(b, b.node("LeakyRelu", conv(b, "x", 8, 6, 1, 1), alpha=0.1), 4, 8, 1, 1),
    "nearest": lambda b: resized(
        b, (2, 3), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    ),
    "padding": lambda b: conv(
        b, b.node("Pad", conv(b, "x", 8, 6, 1, 1), b.constant(np.array([0, 0, 1, 2, 0, 0, 3, 4]))), 4, 8, 1, 1
    ),
    "parts": split,
    "prelu": lambda b: conv(b, b.node("PRelu", conv(b, "x", 8, 6, 1, 1), b.constant(weights(8, 1, 1))), 4, 8, 1, 1),
    "tokens": normalized,
    "transposed": lambda b: b.node(
        "ConvTranspose", "x", b.constant(weights(6, 5, 4, 4)), strides=[2, 2], pads=[1, 0, 0, 1]
    ),
    "transposed groups": lambda b: b.node(
        "ConvTranspose", "x", b.constant(weights(6, 4, 3, 3)), group=2, output_padding=[1, 0], strides=[2, 1]
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
def test_operators(name: str, per_channel: bool) -> None:
    b = ModelBuilder()
    y = OPERATORS[name](b)
    # What follows reads 8 bits, so that the operator itself has to give them.
    found = quantized(b.model({"x": [1, 6, 10, 8]}, y), inputs((1, 6, 10, 8)), per_channel=per_channel)
    feeds = inputs((1, 6, 10, 8))[0]
    stepwise = compare_stepwise(found, feeds)
    assert stepwise
    assert all(tensor.steps <= STEPS for tensor in stepwise), stepwise
    ours, (theirs, *_) = execute(found.program, feeds), run_exactly(exported(found), feeds)
    (expected,) = ours.values()
    # Of a few layers, differences haven't added up yet.
    assert np.abs(theirs - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_16_bits(name: str) -> None:
    b = ModelBuilder()
    y = OPERATORS[name](b)
    found = quantized(b.model({"x": [1, 6, 10, 8]}, y), inputs((1, 6, 10, 8)), activation_bits=16)
    stepwise = compare_stepwise(found, inputs((1, 6, 10, 8))[0])
    assert stepwise
    # Fractions of bilinear interpolation have 8 bits.
    assert all(tensor.steps <= (128 if name == "corners" else STEPS) for tensor in stepwise), stepwise


def test_16_bits_saturate_where_ours_do() -> None:
    b = ModelBuilder()
    y = conv(b, "x", 4, 6, 1, 1)
    found = quantized(b.model({"x": [1, 6, 4, 4]}, y), inputs((1, 6, 4, 4)), activation_bits=16)
    feeds = {"x": 100 * inputs((1, 6, 4, 4))[0]["x"]}
    (expected,) = execute(found.program, feeds).values()
    np.testing.assert_allclose(run_exactly(exported(found), feeds)[0], expected, rtol=1e-4, atol=1e-5)


def test_newer_operators_are_written_only_where_16_bits_need_them() -> None:
    b = ModelBuilder()
    y = b.node("ReduceMean", conv(b, "x", 8, 6, 3, 3), axes=[1], keepdims=1)
    model, samples = b.model({"x": [1, 6, 10, 8]}, conv(b, y, 4, 1, 1, 1)), inputs((1, 6, 10, 8))
    for bits, opset in ((8, 17), (16, 21)):
        found = quantized(model, samples, activation_bits=bits)
        assert exported(found).opset_import[0].version == opset
        assert all(tensor.steps <= STEPS for tensor in compare_stepwise(found, samples[0]))


@pytest.mark.parametrize("rows", [(), (5,)], ids=["Gemm", "MatMul"])
def test_weights_of_4_bits_are_written_as_such(rows: tuple[int, ...]) -> None:
    b = ModelBuilder()
    y = b.node("MatMul", b.node("MatMul", "x", b.constant(weights(16, 24))), b.constant(weights(24, 8)))
    model, samples = b.model({"x": [2, *rows, 16]}, y), inputs((2, *rows, 16))
    found = quantized(model, samples, weight_bits=4)
    written = exported(found)
    stored = [
        onnx.TensorProto.DataType.Name(t.data_type) for t in written.graph.initializer if t.name.endswith("weight")
    ]
    assert (written.opset_import[0].version, stored) == (21, ["INT4", "INT4"])
    assert all(tensor.steps <= STEPS for tensor in compare_stepwise(found, samples[0]))
    (expected,), (theirs, *_) = execute(found.program, samples[0]).values(), run_exactly(written, samples[0])
    np.testing.assert_allclose(theirs, expected, rtol=1e-4, atol=1e-5)


def first_values(b: ModelBuilder) -> str:
    b.nodes.append(helper.make_node("TopK", ["x", b.constant(np.array([3]))], ["values", "places"], axis=1))
    return b.node("Add", "values", b.node("Cast", "places", to=onnx.TensorProto.FLOAT))


def chosen(b: ModelBuilder) -> str:
    return b.node("Where", b.node("Greater", "x", b.constant(np.float32(0.5))), "x", b.constant(np.float32(-1)))


def as_number(b: ModelBuilder, y: str) -> str:
    return b.node("Cast", y, to=onnx.TensorProto.FLOAT)


FLOAT_OPERATORS: dict[str, Nodes] = {
    "ArgMax": lambda b: as_number(b, b.node("ArgMax", "x", axis=1)),
    "Cast": lambda b: as_number(b, b.node("Cast", "x", to=onnx.TensorProto.INT64)),
    "CumSum": lambda b: b.node("CumSum", "x", b.constant(np.array(2)), exclusive=1),
    "Elu": lambda b: b.node("Elu", "x", alpha=0.5),
    "Expand": lambda b: b.node("Expand", b.node("ReduceMax", "x", axes=[2, 3]), b.constant(np.array([1, 6, 10, 8]))),
    "GatherElements": lambda b: b.node("GatherElements", "x", b.constant(np.array([[[[1, 0]]]])), axis=3),
    "GatherND": lambda b: b.node("GatherND", "x", b.constant(np.array([[0, 1], [0, 5]]))),
    "InstanceNormalization": lambda b: b.node(
        "InstanceNormalization", "x", b.constant(weights(6)), b.constant(weights(6))
    ),
    "IsNaN": lambda b: as_number(b, b.node("IsNaN", b.node("Log", "x"))),
    "Pad": lambda b: b.node("Pad", "x", b.constant(np.array([0, 1, 0, 0, 0, 2, 0, 3])), b.constant(np.float32(7))),
    "ReduceL2": lambda b: b.node("ReduceL2", "x", axes=[1], keepdims=0),
    "ReduceSum": lambda b: b.node("ReduceSum", "x", b.constant(np.array([1, 3])), keepdims=0),
    "Reciprocal": lambda b: b.node("Reciprocal", "x"),
    "Resize": lambda b: b.node(
        "Resize",
        "x",
        "",
        b.constant(np.array([1, 1, 2, 3], "float32")),
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    ),
    "Slice": lambda b: b.node("Slice", "x", *(b.constant(np.array([v])) for v in (-1, -9, 2, -2))),
    "Softmax": lambda b: b.node("Softmax", "x", axis=1),
    "TopK": first_values,
    "Where": chosen,
}


@pytest.mark.parametrize("name", FLOAT_OPERATORS)
def test_float_operators_come_out_as_they_went_in(name: str) -> None:
    b = ModelBuilder()
    y = FLOAT_OPERATORS[name](b)
    # A model of which nothing is int8 isn't exported.
    model = b.model({"x": [1, 6, 10, 8]}, y, conv(b, "x", 8, 6, 1, 1))
    feeds = inputs((1, 6, 10, 8))[0]
    expected = run_exactly(model, feeds)[0]
    (found, *_) = run_exactly(exported(quantized(model, inputs((1, 6, 10, 8)))), feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    network = random_network(seed)
    found = quantize(import_proto(network.model, {}, "random", "0" * 64), network.samples(2), algorithm="abs_max")
    if not has_cubes(found):
        assert all(t.steps <= STEPS for t in compare_stepwise(found, network.samples(1)[0]))


def test_answers_of_a_small_network_are_ours() -> None:
    samples = inputs((1, 3, 12, 12))
    tiny = quantized(tiny_network(), samples)
    for feeds in samples:
        np.testing.assert_allclose(run_exactly(exported(tiny), feeds)[0], execute(tiny.program, feeds)["scores"], 1e-5)


def test_weights_are_int8_per_channel_and_biases_int32(residual: Quantized) -> None:
    model = exported(residual)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    kinds = Counter[str]()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            stored, scale = (constants[name] for name in node.input[:2])
            kinds[str(stored.dtype)] += 1
            assert (attributes(node)["axis"], scale.shape, scale.dtype) == (0, stored.shape[:1], np.float32)
    assert kinds == {"int8": 7, "int32": 7}
    rounded = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {constants[n.input[2]].dtype for n in rounded} == {np.dtype("uint8")}


def test_images_are_never_turned_round(residual: Quantized) -> None:
    assert "Transpose" not in {n.op_type for n in exported(residual).graph.node}


def test_onnx_runtime_computes_convolutions_in_int8(residual: Quantized, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(exported(residual).SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
    # The last one's sums become float scores.
    assert kinds["QLinearConv"] == 6


def test_corrected_biases_are_exported() -> None:
    found = quantized(residual_network(), inputs((2, 3, 40, 40)), bias_correction=True)
    ours = {
        str(b.var.name): constant(b.value.args[2])
        for b in Dataflow.of(found.program.module).bindings
        if b.operator == "qnn.conv2d"
    }
    theirs = {i.name: numpy_helper.to_array(i) for i in exported(found).graph.initializer}
    assert len(ours) == 7
    for name, bias in ours.items():
        np.testing.assert_array_equal(theirs[f"{name}.bias"], bias)


def test_an_exported_model_can_be_read_again(tmp_path: Path, residual: Quantized) -> None:
    program = pipeline.load(residual.export(tmp_path / "residual.int8.onnx"))
    feeds = inputs((2, 3, 40, 40))[0]
    np.testing.assert_allclose(
        execute(program, feeds)["scores"], run_exactly(exported(residual), feeds)[0], rtol=1e-3, atol=1e-3
    )


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, residual: Quantized) -> None:
    files = [residual.export(tmp_path / name / "residual.onnx").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_what_onnx_has_no_form_of_is_named() -> None:
    b = ModelBuilder()
    y = conv(b, "x", 8, 6, 1, 1)
    volume = b.node("Reshape", y, b.constant(np.array([1, 1, 8, 10, 8])))
    y = b.node("Conv", volume, b.constant(weights(2, 1, 1, 1, 1)), name="volume")
    found = quantized(b.model({"x": [1, 6, 10, 8]}, y), inputs((1, 6, 10, 8)))
    with pytest.raises(ModelError, match=r"'volume.*' can't be written as ONNX: there is no form of nn\.conv3d yet"):
        exported(found)
