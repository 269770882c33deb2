"""Operators' references equal plain loops and ONNX's reference implementation, which are exact on every CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from pipeline import ops
from pipeline.ops.formula import Formula
from tests.properties import examples


@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.integers(0, 255),
    st.integers(0, 2**32),
)
@examples(30)
def test_convolution_is_the_sum_that_its_description_writes(
    groups: int, batch: int, strides: tuple, padding: tuple, dilation: tuple, zero_point: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (batch, 6, 7, groups * 2), "uint8")
    weight = random.integers(-127, 128, (groups * 3, 2, 3, 2), "int8")
    bias = random.integers(-1000, 1000, groups * 3, "int32")
    multiplier = random.uniform(1e-4, 1e-2, groups * 3).astype("float32")
    operator = ops.QConv2d(
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_zero_point=zero_point,
        output_zero_point=77,
        output_min=10,
        output_max=240,
    )
    result = operator.evaluate(x, weight, bias, multiplier)
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point).astype(int)
    for n, h, w, o in np.ndindex(result.shape):
        total, group = int(bias[o]), o // 3
        for i, j, c in np.ndindex(2, 3, 2):
            pixel = padded[n, h * strides[0] + i * dilation[0], w * strides[1] + j * dilation[1], group * 2 + c]
            total += int(pixel - zero_point) * int(weight[o, i, j, c])
        q = int(np.rint(np.float32(total) * multiplier[o])) + 77
        assert result[n, h, w, o] == min(max(q, 10), 240)


def run_onnx_reference(nodes: Sequence[NodeProto], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return each node's first output, by ONNX's own definitions, which are the same on every CPU."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
    graph = helper.make_graph(nodes, "nodes", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    names = [output.name for output in outputs]
    return dict(zip(names, ReferenceEvaluator(model).run(names, feeds), strict=True))


@given(st.floats(2.0**-10, 2.0**6, width=32), st.integers(0, 255), st.integers(0, 2**32))
@examples(30)
def test_quantize_and_dequantize_are_onnx_s_for_scales_that_are_powers_of_two(
    scale: float, zero_point: int, seed: int
) -> None:
    scale = 2.0 ** round(np.log2(scale))
    x = (np.random.default_rng(seed).standard_normal(50) * 100 * scale).astype("float32")
    y = ops.Quantize(inverse_scale=1 / scale, zero_point=zero_point).evaluate(x)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "s", "z"], ["d"]),
    ]
    expected = run_onnx_reference(nodes, {"x": x, "s": np.float32(scale), "z": np.uint8(zero_point)})
    np.testing.assert_array_equal(y, expected["y"])
    np.testing.assert_array_equal(ops.Dequantize(scale=scale, zero_point=zero_point).evaluate(y), expected["d"])


@given(st.integers(1, 2), st.integers(1, 2), st.integers(0, 2), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_integer_convolution_is_onnx_s_in_whole_numbers(
    groups: int, stride: int, pad: int, zero_point: int, seed: int
) -> None:
    """Dequantized by 1, convolved, scaled, and quantized by 1: float32 has these sums of whole numbers exactly."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (1, 7, 8, groups * 4), "uint8")
    weight = random.integers(-127, 128, (groups * 3, 3, 3, 4), "int8")
    bias = random.integers(-1000, 1000, groups * 3, "int32")
    # With powers of two, results are exact, and some are halves, which both must round in the same way.
    scales = np.exp2(random.integers(-12, -8, groups * 3)).astype("float32")
    geometry = {"pads": [pad] * 4, "strides": [stride] * 2, "group": groups}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "x_zero_point"], ["whole"]),
        helper.make_node("Conv", ["whole", "weight", "bias"], ["sums"], **geometry),
        helper.make_node("Mul", ["sums", "scales"], ["scaled"]),
        helper.make_node("QuantizeLinear", ["scaled", "one", "y_zero_point"], ["y"]),
    ]
    feeds = {
        "x": x.transpose(0, 3, 1, 2),
        "one": np.float32(1),
        "x_zero_point": np.uint8(zero_point),
        "weight": weight.transpose(0, 3, 1, 2).astype("float32"),
        "bias": bias.astype("float32"),
        "scales": scales.reshape(-1, 1, 1),
        "y_zero_point": np.uint8(101),
    }
    operator = ops.QConv2d(
        strides=(stride, stride), padding=(pad,) * 4, groups=groups, input_zero_point=zero_point, output_zero_point=101
    )
    expected = run_onnx_reference(nodes, feeds)["y"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(operator.evaluate(x, weight, bias, scales), expected)


def test_prelu_is_onnx_s() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5)).astype("float32")
    slope = np.array([0.25, -1.0, 0.0, 2.0], "float32").reshape(4, 1, 1)
    expected = run_onnx_reference([helper.make_node("PRelu", ["x", "slope"], ["y"])], {"x": x, "slope": slope})["y"]
    np.testing.assert_array_equal(ops.PRelu().evaluate(x, slope), expected)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(-3, 3))
@examples(20)
def test_integer_prelu_is_onnx_s_between_scales_that_are_powers_of_two(
    zero_point: int, output_zero_point: int, exponent: int
) -> None:
    x, slope = np.arange(256, dtype="uint8").reshape(64, 4), np.array([0.25, -1.0, 0.0, 2.0], "float32")
    ratio = np.float32(2.0**exponent)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "ratio", "x_zero_point"], ["real"]),
        helper.make_node("PRelu", ["real", "slope"], ["sloped"]),
        helper.make_node("QuantizeLinear", ["sloped", "one", "y_zero_point"], ["y"]),
    ]
    feeds = {"x": x, "ratio": ratio, "slope": slope, "one": np.float32(1)}
    feeds |= {"x_zero_point": np.uint8(zero_point), "y_zero_point": np.uint8(output_zero_point)}
    operator = ops.QPRelu(output_zero_point, input_zero_point=zero_point, multiplier=float(ratio))
    np.testing.assert_array_equal(operator.evaluate(x, slope * ratio), run_onnx_reference(nodes, feeds)["y"])


@given(st.integers(0, 255), st.sampled_from([-0.75, 0.0, 2.0]), st.sampled_from([-0.5, 1.0, 1.25]))
@examples(20)
def test_hard_swish_is_onnx_s_with_a_scale_for_each_channel(zero_point: int, shift: float, factor: float) -> None:
    x = np.linspace(-9, 300, 256, dtype="float32").reshape(64, 4)
    scales = np.array([1, 0.25, 0.0625, 4], "float32")
    nodes = [
        helper.make_node("HardSwish", ["x"], ["swished"]),
        helper.make_node("Mul", ["swished", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["real"]),
        helper.make_node("QuantizeLinear", ["real", "scales", "zero_points"], ["y"], axis=1),
    ]
    constants = {"factor": np.float32(factor), "shift": np.float32(shift), "scales": scales}
    zero_points = {"zero_points": np.full(4, zero_point, "uint8")}
    expected = run_onnx_reference(nodes, {"x": x} | constants | zero_points)["y"]
    bits = 8 if shift else 0
    operator = ops.QHardSwish(zero_point, shift=6 * shift / factor, fraction_bits=bits, largest=3000.0)
    found = operator.evaluate(x, (factor * 2.0**bits / (6 * scales)).astype("float32"))
    # A sixth isn't exact: what lies between two steps may go to either.
    assert np.abs(found.astype("int32") - expected).max() <= 1
    assert (found == expected).mean() > 0.9


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool_is_onnx_s(dtype: str, dilation: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 3)).astype(dtype)
    operator = ops.MaxPool2d((3, 2), (2, 1), (1, 0, 1, 1), (dilation, dilation))
    geometry = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [dilation] * 2}
    node = helper.make_node("MaxPool", ["x"], ["y"], **geometry)
    expected = run_onnx_reference([node], {"x": x.transpose(0, 3, 1, 2)})["y"]
    np.testing.assert_array_equal(operator.evaluate(x), expected.transpose(0, 2, 3, 1))


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1))
@examples(20)
def test_a_mean_is_the_rounded_sum_over_the_window(zero_point: int, output_zero_point: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (1, 5, 6, 2), "uint8")
    operator = ops.QAvgPool2d(
        output_zero_point, 3, 250, pool_size=(3, 2), strides=(2, 1), padding=(1, 1, 1, 0), input_zero_point=zero_point
    )
    multiplier = random.choice(np.array([0.125, 0.25, 0.5], "float32"), (3, 6))
    result = operator.evaluate(x, multiplier)
    assert result.shape == (1, 3, 6, 2)
    for _, h, w, c in np.ndindex(result.shape):
        taps = [(2 * h - 1 + i, w - 1 + j) for i, j in itertools.product(range(3), range(2))]
        total = sum(int(x[0, r, k, c]) - zero_point for r, k in taps if 0 <= r < 5 and 0 <= k < 6)
        # Python, too, rounds halves to even.
        mean = round(total * Fraction(float(multiplier[h, w])))
        assert result[0, h, w, c] == min(max(mean + output_zero_point, 3), 250)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1))
@examples(20)
def test_a_product_is_rounded_half_to_even_and_broadcast(a_zero: int, b_zero: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 256, (2, 3, 4), "uint8"), random.integers(0, 256, (2, 1, 4), "uint8")
    operator = ops.QMultiply(output_zero_point=60, a_zero_point=a_zero, b_zero_point=b_zero, multiplier=2.0**-7)
    result = operator.evaluate(a, b)
    for i, j, k in np.ndindex(2, 3, 4):
        product = (int(a[i, j, k]) - a_zero) * (int(b[i, 0, k]) - b_zero)
        assert result[i, j, k] == min(max(round(Fraction(product, 128)) + 60, 0), 255)


@given(st.integers(0, 255), st.integers(0, 255), st.booleans(), st.integers(0, 2**32 - 1))
@examples(20)
def test_a_matrix_product_of_activations_is_the_rounded_sum_of_products(
    a_zero: int, b_zero: int, transposed: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 256, (2, 3, 4), "uint8"), random.integers(0, 256, (1, 4, 5), "uint8")
    operator = ops.QMatMul(60, transpose_b=transposed, a_zero_point=a_zero, b_zero_point=b_zero, multiplier=2.0**-9)
    result = operator.evaluate(a, np.swapaxes(b, 1, 2) if transposed else b)
    for n, i, j in np.ndindex(2, 3, 5):
        total = sum((int(a[n, i, k]) - a_zero) * (int(b[0, k, j]) - b_zero) for k in range(4))
        assert result[n, i, j] == min(max(round(Fraction(total, 512)) + 60, 0), 255)


@given(st.integers(0, 255), st.integers(0, 2**32 - 1))
@examples(20)
def test_a_softmax_of_codes_is_the_softmax_of_what_they_stand_for(zero_point: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (3, 40), "uint8")
    table = np.rint(np.exp(-0.05 * np.arange(256)) * 2**20).astype("int32")
    result = ops.QSoftmax(zero_point, multiplier=1000.0).evaluate(x, table).astype("float64")
    exact = np.exp(0.05 * x) / np.exp(0.05 * x).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(result, np.minimum(exact * 1000 + zero_point, 255), atol=0.51)


@given(st.integers(0, 2**32 - 1))
@examples(20)
def test_a_resized_image_of_codes_is_the_mean_of_four_pixels(seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (1, 4, 3, 2), "uint8")
    result = ops.QResizeBilinear((8, 9), (-0.25, -0.125), (0.5, 0.375)).evaluate(x)
    for i, j, c in np.ndindex(8, 9, 2):
        row, column = (Fraction(p) for p in (min(max(i / 2 - 0.25, 0), 3), min(max(j * 0.375 - 0.125, 0), 2)))
        mean = sum(
            int(x[0, h, w, c]) * max(1 - abs(row - h), Fraction(0)) * max(1 - abs(column - w), Fraction(0))
            for h, w in np.ndindex(4, 3)
        )
        assert result[0, i, j, c] == (mean + Fraction(1, 2)) // 1


def test_infinities_saturate_and_nan_becomes_255() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 3e37, -3e37], "float32")
    np.testing.assert_array_equal(ops.Quantize(4.0, 128).evaluate(x), [255, 0, 255, 255, 0])


def test_a_lookup_and_a_pad_are_what_they_say() -> None:
    table = np.arange(256, dtype="uint8")[::-1]
    x = np.array([[0, 1, 255]], "uint8")
    assert ops.QLookup().evaluate(x, table).tolist() == [[255, 254, 0]]
    padded = ops.Pad((1, 0, 0, 2), 7.0).evaluate(np.full((1, 1, 1, 2), 3, "uint8"))
    assert padded[..., 0].tolist() == [[[7, 7, 7], [3, 7, 7]]]


@given(st.integers(0, 2**32))
@examples(20)
def test_a_sum_is_the_rounded_real_sum(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 256, (2, 100), "uint8")
    operator = ops.QAdd(a_zero_point=3, b_zero_point=200, a_multiplier=3 << 14, b_multiplier=1 << 14, shift=16)
    exact = 0.75 * (a.astype(float) - 3) + 0.25 * (b.astype(float) - 200)
    np.testing.assert_array_equal(operator.evaluate(a, b), np.clip(np.floor(exact + 0.5), 0, 255))


def test_an_average_leaves_out_what_is_padding() -> None:
    x = np.full((1, 2, 2, 1), 30, "uint8")
    multiplier = np.full((3, 3), 1.0, "float32") / np.outer([1, 2, 1], [1, 2, 1]).astype("float32")
    operator = ops.QAvgPool2d(pool_size=(2, 2), padding=(1, 1, 1, 1), input_zero_point=10, output_zero_point=10)
    assert (operator.evaluate(x, multiplier) == 30).all()


@pytest.mark.parametrize(
    "text",
    [
        '[["exec","x"]]',
        '[["add","x"]]',
        '"y"',
        "[]",
        "[[]]",
        '[["__import__","os"]]',
        '[["add","x",true]]',
        '[["exp","y"]]',
        '[["exp","#0"]]',
        '[["exp","x"],["exp","#-1"]]',
        '[["exp",["exp","x"]]]',
    ],
)
def test_a_formula_is_nothing_but_known_functions(text: str) -> None:
    with pytest.raises(ValueError, match=r"Not a function|takes \d operands|Not an operand"):
        Formula.parse(text)


@given(st.integers(1, 4), st.integers(1, 3), st.tuples(*[st.integers(0, 2)] * 4), st.integers(0, 2**32))
@examples(30)
def test_an_unfolded_image_holds_rows_side_by_side(rows: int, step: int, halo: tuple, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, 5, 4)).astype("float32")
    y = ops.QuantizeImage(20.0, 128, halo, 9, rows, step).evaluate(x)
    image = ops.QuantizeImage(20.0, 128, halo, 9).evaluate(x)
    assert y.shape == (2, (image.shape[1] - rows) // step + 1, image.shape[2], 3 * rows)
    for n, line, column, r, c in itertools.product(*(range(size) for size in (*y.shape[:3], rows, 3))):
        assert y[n, line, column, r * 3 + c] == image[n, line * step + r, column, c]
