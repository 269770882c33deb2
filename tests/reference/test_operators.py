"""The reference itself, held against loops and against ONNX's own reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from pipeline.dialect import attributes as op
from pipeline.dialect import pointwise
from pipeline.reference.operators import OPERATORS, evaluate


def test_every_operator_has_a_reference() -> None:
    assert set(OPERATORS) == set(op.OPERATORS.values())


@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.integers(0, 255),
    st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_convolution_is_the_sum_that_its_description_writes(
    groups: int, batch: int, strides: tuple, padding: tuple, dilation: tuple, zero_point: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (batch, 6, 7, groups * 2), "uint8")
    weight = random.integers(-127, 128, (groups * 3, 2, 3, 2), "int8")
    bias = random.integers(-1000, 1000, groups * 3, "int32")
    multiplier = random.uniform(1e-4, 1e-2, groups * 3).astype("float32")
    attrs = op.QConv2d(
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        input_zero_point=zero_point,
        output_zero_point=77,
        output_min=10,
        output_max=240,
    )
    result = evaluate(attrs, x, weight, bias, multiplier)
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point).astype(int)
    for n, h, w, o in np.ndindex(result.shape):
        total, group = int(bias[o]), o // 3
        for i, j, c in np.ndindex(2, 3, 2):
            pixel = padded[n, h * strides[0] + i * dilation[0], w * strides[1] + j * dilation[1], group * 2 + c]
            total += int(pixel - zero_point) * int(weight[o, i, j, c])
        q = int(np.rint(np.float32(total) * multiplier[o])) + 77
        assert result[n, h, w, o] == min(max(q, 10), 240)


@given(st.floats(2.0**-10, 2.0**6, width=32), st.integers(0, 255), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_quantize_and_dequantize_are_onnx_s_for_scales_that_are_powers_of_two(
    scale: float, zero_point: int, seed: int
) -> None:
    scale = 2.0 ** round(np.log2(scale))
    x = (np.random.default_rng(seed).standard_normal(50) * 100 * scale).astype("float32")
    y = evaluate(op.Quantize(inverse_scale=1 / scale, zero_point=zero_point), x)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "s", "z"], ["d"]),
    ]
    inputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("x", 1), ("s", 1), ("z", TensorProto.UINT8))]
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("y", TensorProto.UINT8), ("d", 1))]
    model = helper.make_model(helper.make_graph(nodes, "q", inputs, outputs))
    feeds = {"x": x, "s": np.float32(scale), "z": np.uint8(zero_point)}
    expected, restored = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(evaluate(op.Dequantize(scale=scale, zero_point=zero_point), y), restored)


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_sum_is_the_rounded_real_sum(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 256, (2, 100), "uint8")
    attrs = op.QAdd(a_zero_point=3, b_zero_point=200, a_multiplier=3 << 14, b_multiplier=1 << 14, shift=16)
    exact = 0.75 * (a.astype(float) - 3) + 0.25 * (b.astype(float) - 200)
    np.testing.assert_array_equal(evaluate(attrs, a, b), np.clip(np.floor(exact + 0.5), 0, 255))


def test_an_average_leaves_out_what_is_padding() -> None:
    x = np.full((1, 2, 2, 1), 30, "uint8")
    multiplier = np.full((3, 3), 1.0, "float32") / np.outer([1, 2, 1], [1, 2, 1]).astype("float32")
    attrs = op.QAvgPool2d(pool_size=(2, 2), padding=(1, 1, 1, 1), input_zero_point=10, output_zero_point=10)
    assert (evaluate(attrs, x, multiplier) == 30).all()


@pytest.mark.parametrize("text", ['["exec","x"]', '["add","x"]', '"y"', "[]", '["__import__","os"]'])
def test_an_expression_is_nothing_but_known_functions(text: str) -> None:
    with pytest.raises(ValueError, match=r"Not a function|takes \d operands"):
        pointwise.parse(text)
