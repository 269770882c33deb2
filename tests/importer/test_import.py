"""Imported programs compute what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.errors import ModelError
from pipeline.importer import frontend, import_model
from pipeline.ir.dataflow import Dataflow, constant
from pipeline.ir.program import TensorSpec
from pipeline.recipes import load_recipe, prepare
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model, run_onnx, small_network


def assert_same(model: onnx.ModelProto, shape: tuple[int, ...] = (1, 4, 9, 8)) -> list[str]:
    """Compare with ONNX Runtime and return the operators of the imported program."""
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    program = import_test_model(model)
    expected = run_onnx(model, {"x": x})
    actual = execute(program, {"x": x})
    assert list(actual) == [o.name for o in model.graph.output]
    for value, reference in zip(actual.values(), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5)
    return [b.operator for b in Dataflow.of(program.module).bindings]


@dataclass(frozen=True)
class Convolution:
    name: str
    attributes: dict[str, Any]
    kernel: tuple[int, ...] = (3, 3)
    groups: int = 1
    bias: bool = True
    shape: tuple[int, ...] = (1, 4, 9, 8)


CONVOLUTIONS = [
    Convolution("plain", {}),
    Convolution("no_bias", {}, bias=False),
    Convolution("uneven_padding", {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    Convolution("same_upper", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Convolution("same_lower", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    Convolution("valid", {"auto_pad": "VALID"}),
    Convolution("dilated", {"dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    Convolution("grouped", {"group": 2}, groups=2),
    Convolution("depthwise", {"group": 4, "pads": [1, 1, 1, 1]}, groups=4),
    Convolution("batch", {}, shape=(3, 4, 9, 8)),
    Convolution("one_dimension", {"pads": [1, 1]}, kernel=(3,), shape=(1, 4, 9)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: c.name)
def test_convolutions(case: Convolution) -> None:
    random = np.random.default_rng(1)
    b = ModelBuilder()
    inputs = [
        b.constant(
            random.standard_normal((6 if case.groups < 4 else 8, 4 // case.groups, *case.kernel)).astype("float32")
        )
    ]
    if case.bias:
        inputs.append(b.constant(random.standard_normal(6 if case.groups < 4 else 8).astype("float32")))
    y = b.node("Conv", "x", *inputs, **case.attributes)
    assert "nn.conv2d" in assert_same(b.model({"x": case.shape}, y), case.shape)


TRANSPOSED = [
    Convolution("plain", {}),
    Convolution("2x2", {"strides": [2, 2]}, kernel=(2, 2)),
    Convolution("no_bias", {"strides": [2, 2]}, bias=False),
    Convolution("padding", {"strides": [2, 3], "pads": [0, 1, 2, 1], "output_padding": [1, 2]}),
    Convolution("same_upper", {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    Convolution("same_lower", {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    Convolution("valid", {"strides": [2, 2], "auto_pad": "VALID"}),
    Convolution("output_shape", {"strides": [2, 2], "output_shape": [18, 15]}),
    Convolution("output_shape_upper", {"strides": [2, 2], "output_shape": [18, 15], "auto_pad": "SAME_UPPER"}),
    Convolution("dilated", {"strides": [2, 2], "dilations": [2, 3]}),
    Convolution("grouped", {"group": 2, "strides": [2, 2]}, groups=2),
    Convolution("depthwise", {"group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1]}, kernel=(4, 4), groups=4),
    Convolution("one_dimension", {"strides": [2], "pads": [1, 0]}, kernel=(3,), shape=(2, 4, 9)),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda c: c.name)
def test_transposed_convolutions(case: Convolution) -> None:
    random = np.random.default_rng(1)
    b = ModelBuilder()
    inputs = [b.constant(random.standard_normal((4, 6 // case.groups + 1, *case.kernel)).astype("float32"))]
    if case.bias:
        out = (6 // case.groups + 1) * case.groups
        inputs.append(b.constant(random.standard_normal(out).astype("float32")))
    y = b.node("ConvTranspose", "x", *inputs, **case.attributes)
    assert "nn.conv2d_transpose" in assert_same(b.model({"x": case.shape}, b.node("Relu", y)), case.shape)


def test_standard_output_stays_the_programs_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other threads may print while a model is imported.
    monkeypatch.setattr(frontend._Importer, "finish", lambda self: print("meanwhile"))
    import_test_model(small_network())
    assert capsys.readouterr().out == "meanwhile\n"


def test_what_cannot_be_imported_is_only_in_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    b = ModelBuilder()
    y = b.node("Cast", b.node("NonZero", b.node("Relu", "x")), to=onnx.TensorProto.FLOAT)
    with pytest.raises(ModelError, match="depends on the data"):
        import_test_model(b.model({"x": (1, 3)}, y))
    assert capsys.readouterr() == ("", "")


def test_what_follows_a_transposed_convolution_disappears_into_it() -> None:
    random = np.random.default_rng(2)
    b = ModelBuilder()
    y = b.node("ConvTranspose", "x", b.constant(random.standard_normal((4, 6, 2, 2)).astype("float32")), strides=[2, 2])
    y = b.node("Add", y, b.constant(random.standard_normal((1, 6, 1, 1)).astype("float32")))
    y = b.node("BatchNormalization", y, *(b.constant(random.uniform(0.5, 2, 6).astype("float32")) for _ in range(4)))
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("Relu", y)))
    assert operators == ["relax.permute_dims", "nn.conv2d_transpose", "relax.permute_dims"]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_become_pixels(mode: str) -> None:
    b = ModelBuilder()
    y = b.node("DepthToSpace", "x", blocksize=2, mode=mode)
    assert "nn.depth_to_space" in assert_same(b.model({"x": (2, 12, 3, 4)}, y), (2, 12, 3, 4))


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_softmax_along_any_axis(axis: int) -> None:
    b = ModelBuilder()
    assert "nn.softmax" in assert_same(b.model({"x": (2, 4, 9, 8)}, b.node("Softmax", "x", axis=axis)), (2, 4, 9, 8))


def test_softmax_over_channels_needs_no_permutation_of_its_own() -> None:
    random = np.random.default_rng(3)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((6, 4, 3, 3)).astype("float32")))
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("Softmax", y, axis=1)))
    assert operators == ["relax.permute_dims", "nn.conv2d", "nn.softmax", "relax.permute_dims"]


def layer_norm(b: ModelBuilder, x: str, square: str = "Pow", twice: bool = False) -> str:
    """Write a layer normalization over 8 channels as PyTorch does before operator set 17."""
    random = np.random.default_rng(4)
    gamma, beta = (b.constant(random.standard_normal(8).astype("float32")) for _ in range(2))
    mean = b.node("ReduceMean", x, axes=[-1])
    centred = b.node("Sub", x, mean)
    again = b.node("Sub", x, mean) if twice else centred
    squared = b.node("Pow", again, b.constant(np.float32(2))) if square == "Pow" else b.node("Mul", again, again)
    variance = b.node("Add", b.node("ReduceMean", squared, axes=[-1]), b.constant(np.float32(1e-4)))
    return b.node("Add", beta, b.node("Mul", b.node("Div", centred, b.node("Sqrt", variance)), gamma))


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("twice", [False, True], ids=["one difference", "two differences"])
def test_a_layer_normalization_in_pieces_is_one_operator(square: str, twice: bool) -> None:
    b = ModelBuilder()
    assert assert_same(b.model({"x": (2, 4, 9, 8)}, layer_norm(b, "x", square, twice)), (2, 4, 9, 8)) == [
        "nn.layer_norm"
    ]


def test_what_only_looks_like_a_layer_normalization_stays_as_it_is() -> None:
    b = ModelBuilder()
    centred = b.node("Sub", "x", b.node("ReduceMean", "x", axes=[2]))
    variance = b.node("ReduceMean", b.node("Mul", centred, centred), axes=[-1])
    root = b.node("Sqrt", b.node("Add", variance, b.constant(np.float32(1e-4))))
    gamma, beta = (b.constant(np.full(8, v, "float32")) for v in (2, 3))
    y = b.node("Add", b.node("Mul", b.node("Div", centred, root), gamma), beta)
    assert "nn.layer_norm" not in assert_same(b.model({"x": (2, 4, 9, 8)}, y), (2, 4, 9, 8))


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_normalization(bias: bool) -> None:
    random = np.random.default_rng(4)
    b = ModelBuilder()
    weights = [b.constant(random.standard_normal(8).astype("float32")) for _ in range(1 + bias)]
    y = b.node("LayerNormalization", "x", *weights, epsilon=1e-3)
    assert assert_same(b.model({"x": (2, 4, 9, 8)}, y), (2, 4, 9, 8)) == ["nn.layer_norm"]


@pytest.mark.parametrize(
    ("shape", "fused"), [((), True), ((1, 1, 8), True), ((9, 8), False), ((4, 1, 1), False)], ids=str
)
def test_a_layer_normalizations_scale_may_have_any_shape_that_fits(shape: tuple[int, ...], fused: bool) -> None:
    b = ModelBuilder()
    scale, shift = (b.constant(np.random.default_rng(i).standard_normal(shape).astype("float32")) for i in range(2))
    model = b.model({"x": (2, 4, 9, 8)}, b.node("LayerNormalization", "x", scale, shift))
    assert ("nn.layer_norm" in assert_same(model, (2, 4, 9, 8))) == fused


def test_an_image_becomes_a_sequence_without_a_copy() -> None:
    random = np.random.default_rng(5)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((8, 4, 1, 1)).astype("float32")))
    y = b.node("Reshape", y, b.constant(np.array([2, 8, 72], "int64")))
    y = layer_norm(b, b.node("Transpose", y, perm=[0, 2, 1]))
    operators = assert_same(b.model({"x": (2, 4, 9, 8)}, y), (2, 4, 9, 8))
    assert operators == ["relax.permute_dims", "nn.conv2d", "relax.reshape", "nn.layer_norm"]


def test_reshapes_around_matrix_products_vanish() -> None:
    random = np.random.default_rng(6)
    b = ModelBuilder()
    y = "x"
    for shape in ([18, 8], [2, 9, 8]):
        weight = b.constant(random.standard_normal((8, 8)).astype("float32"))
        y = b.node("Sigmoid", b.node("Gemm", b.node("Reshape", y, b.constant(np.array([18, 8], "int64"))), weight))
        y = b.node("Softmax", b.node("Reshape", y, b.constant(np.array(shape, "int64"))), axis=-1)
    operators = assert_same(b.model({"x": (2, 9, 8)}, y), (2, 9, 8))
    assert "relax.reshape" not in operators


@dataclass(frozen=True)
class Pool:
    name: str
    op_type: str
    attributes: dict[str, Any] = field(default_factory=dict)


POOLS = [
    Pool("max", "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Pool("max_ceil", "MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    Pool("max_dilated", "MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Pool("max_same", "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Pool("average", "AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Pool("average_with_padding", "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Pool("global_average", "GlobalAveragePool"),
]


@pytest.mark.parametrize("case", POOLS, ids=lambda c: c.name)
def test_pools(case: Pool) -> None:
    b = ModelBuilder()
    assert_same(b.model({"x": (1, 4, 9, 8)}, b.node(case.op_type, "x", **case.attributes)))


def test_a_batch_normalization_after_a_convolution_disappears_into_it() -> None:
    random = np.random.default_rng(2)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((6, 4, 3, 3)).astype("float32")))
    statistics = [b.constant(random.uniform(0.5, 2, 6).astype("float32")) for _ in range(4)]
    y = b.node("Relu", b.node("BatchNormalization", y, *statistics))
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, y))
    assert operators.count("nn.conv2d") == 1
    assert not {"relax.multiply", "relax.add", "relax.nn.relu"} & set(operators)


def test_a_batch_normalization_before_a_convolution_becomes_a_depthwise_one() -> None:
    random = np.random.default_rng(2)
    b = ModelBuilder()
    statistics = [b.constant(random.uniform(0.5, 2, 4).astype("float32")) for _ in range(4)]
    pooled = b.node("MaxPool", "x", kernel_shape=[2, 2])
    y = b.node("Relu", b.node("BatchNormalization", pooled, *statistics))
    y = b.node("Conv", y, b.constant(random.standard_normal((6, 4, 3, 3)).astype("float32")))
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, y))
    assert operators.count("nn.conv2d") == 2
    assert not {"relax.multiply", "relax.add", "relax.nn.relu"} & set(operators)


def test_a_chain_of_functions_of_one_tensor_is_one_operator() -> None:
    b = ModelBuilder()
    three, six, zero = (b.constant(np.float32(v)) for v in (3, 6, 0))
    clipped = b.node("Clip", b.node("Add", "x", three), zero, six)
    y = b.node("Div", b.node("Mul", "x", clipped), six)
    assert assert_same(b.model({"x": (1, 4, 9, 8)}, y)) == ["nn.unary"]


@pytest.mark.parametrize(
    "op_type", ["Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Erf", "Exp", "Abs", "Neg", "Sqrt"]
)
def test_functions_of_one_value(op_type: str) -> None:
    b = ModelBuilder()
    y = b.node(op_type, b.node("Abs", "x")) if op_type == "Sqrt" else b.node(op_type, "x")
    assert_same(b.model({"x": (1, 4, 9, 8)}, y))


def test_no_permutation_is_left_between_convolutions() -> None:
    operators = assert_same(small_network(), (1, 3, 12, 12))
    assert operators.count("relax.permute_dims") == 1, "only the input's, from NCHW"


def test_a_transpose_that_the_model_asks_for_is_kept() -> None:
    random = np.random.default_rng(3)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((6, 4, 3, 3)).astype("float32")))
    y = b.node("Transpose", b.node("Relu", y), perm=[0, 3, 1, 2])
    assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("Softmax", y, axis=2)))


def test_a_flattened_image_keeps_the_order_of_channels() -> None:
    random = np.random.default_rng(3)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((6, 4, 3, 3)).astype("float32")))
    y = b.node("Gemm", b.node("Flatten", y), b.constant(random.standard_normal((252, 5)).astype("float32")))
    assert_same(b.model({"x": (1, 4, 9, 8)}, y))


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}], ids=str)
def test_matrix_products(attributes: dict[str, Any]) -> None:
    random = np.random.default_rng(4)
    b = ModelBuilder()
    shape = (5, 8) if attributes.get("transB") else (8, 5)
    weight, bias = (b.constant(random.standard_normal(s).astype("float32")) for s in (shape, (5,)))
    operators = assert_same(b.model({"x": (3, 8)}, b.node("Gemm", "x", weight, bias, **attributes)), (3, 8))
    assert operators == ["nn.dense"]


def test_a_product_of_two_activations_and_a_softmax() -> None:
    b = ModelBuilder()
    scores = b.node("MatMul", "x", b.node("Transpose", "x", perm=[0, 1, 3, 2]))
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("MatMul", b.node("Softmax", scores, axis=-1), "x")))
    assert operators == ["nn.matmul", "nn.softmax", "nn.matmul"], "the product takes its right side transposed"


def test_a_product_with_a_constant_matrix_is_a_dense_whatever_its_rank() -> None:
    b = ModelBuilder()
    weight = b.constant(np.random.default_rng(4).standard_normal((1, 1, 8, 5)).astype("float32"))
    assert assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("MatMul", "x", weight))) == ["nn.dense"]


def test_a_product_with_constant_matrices_for_each_channel() -> None:
    b = ModelBuilder()
    weight = b.constant(np.random.default_rng(4).standard_normal((4, 8, 5)).astype("float32"))
    assert assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("MatMul", "x", weight))) == ["nn.matmul"]


@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel"])
@pytest.mark.parametrize("rounding", ["floor", "round_prefer_floor"])
def test_an_image_is_enlarged_by_its_nearest_pixels(mode: str, rounding: str) -> None:
    random = np.random.default_rng(5)
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(random.standard_normal((6, 4, 1, 1)).astype("float32")))
    options = {"coordinate_transformation_mode": mode, "nearest_mode": rounding}
    y = b.node("Resize", y, "", b.constant(np.array([1, 1, 2, 3], "float32")), mode="nearest", **options)
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("Relu", y)))
    assert operators.index("relax.image.resize2d") < operators.index("relax.permute_dims", 1)


@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"])
@pytest.mark.parametrize("sizes", [(18, 24), (13, 8), (4, 5), (9, 1), (1, 30)], ids=str)
def test_an_image_is_resized_between_its_pixels(mode: str, sizes: tuple[int, int]) -> None:
    b = ModelBuilder()
    wanted = b.constant(np.array([1, 4, *sizes], "int64"))
    y = b.node("Resize", "x", "", "", wanted, mode="linear", coordinate_transformation_mode=mode)
    operators = assert_same(b.model({"x": (1, 4, 9, 8)}, y))
    assert operators == ["relax.permute_dims", "nn.resize_bilinear", "relax.permute_dims"]


@pytest.mark.parametrize("mode", ["asymmetric", "half_pixel"])
def test_an_image_is_resized_by_the_scale_that_is_given_even_where_it_makes_no_whole_size(mode: str) -> None:
    b = ModelBuilder()
    scales = b.constant(np.array([1, 1, 1.4, 0.7], "float32"))
    y = b.node("Resize", "x", "", scales, mode="linear", coordinate_transformation_mode=mode)
    assert "nn.resize_bilinear" in assert_same(b.model({"x": (2, 4, 9, 10)}, y), (2, 4, 9, 10))


def test_a_tensor_is_split_and_joined_again() -> None:
    b = ModelBuilder()
    sizes = b.constant(np.array([1, 3], "int64"))
    b.nodes.append(onnx.helper.make_node("Split", ["x", sizes], ["left", "right"], axis=1))
    y = b.node("Concat", b.node("Relu", "right"), "left", axis=1)
    assert assert_same(b.model({"x": (1, 4, 9, 8)}, y)).count("relax.strided_slice") == 2


def test_zero_padding_of_an_image() -> None:
    b = ModelBuilder()
    pads = b.constant(np.array([0, 0, 1, 2, 0, 0, 3, 0], "int64"))
    assert assert_same(b.model({"x": (1, 4, 9, 8)}, b.node("Pad", "x", pads))).count("nn.pad") == 1


def test_names_order_layout_and_dtype_of_inputs_and_outputs_are_those_of_the_file() -> None:
    b = ModelBuilder()
    total = b.node("Add", "second/in:0", "first.in", name="sum.out")
    product = b.node("Mul", "second/in:0", "first.in", name="product/out")
    program = import_test_model(b.model({"second/in:0": (1, 3, 4, 5), "first.in": (1, 3, 4, 5)}, product, total))
    assert program.inputs == (
        TensorSpec("second/in:0", (1, 3, 4, 5), "float32"),
        TensorSpec("first.in", (1, 3, 4, 5), "float32"),
    )
    assert [o.name for o in program.outputs] == ["product/out", "sum.out"]


def test_an_open_batch_is_one_and_other_open_sizes_are_given() -> None:
    b = ModelBuilder()
    model = b.model({"x": ("batch", 3, "height", 4)}, b.node("Relu", "x"))
    assert import_test_model(model, x=(1, 3, 6, 4)).inputs[0].shape == (1, 3, 6, 4)
    b = ModelBuilder()
    assert import_test_model(b.model({"x": ("batch", 3)}, b.node("Relu", "x"))).inputs[0].shape == (1, 3)


def test_the_real_digit_classifier() -> None:
    prepared = prepare(load_recipe("digits"))
    program = import_model(prepared.model, prepared.shapes)
    model = onnx.load(prepared.model)
    for sample, _ in zip(prepared.evaluation(), range(5), strict=False):
        (expected,) = run_onnx(model, sample.feeds)
        np.testing.assert_allclose(execute(program, sample.feeds)["scores"], expected, rtol=1e-4, atol=1e-4)


def test_denormal_weights_become_zero() -> None:
    b = ModelBuilder()
    weight = np.full((1, 4, 1, 1), 1e-40, "float32")
    weight[0, 1] = 1e-30
    program = import_test_model(b.model({"x": [1, 4, 2, 2]}, b.node("Conv", "x", b.constant(weight))))
    call = next(binding.value for binding in Dataflow.of(program.module).bindings if binding.operator == "nn.conv2d")
    np.testing.assert_array_equal(constant(call.args[1]).reshape(-1), np.float32([0, 1e-30, 0, 0]))
