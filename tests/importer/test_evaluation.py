"""Models evaluated by ONNX's reference implementation, with our corrections, compute what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pipeline.importer.evaluation.model import evaluate_model
from tests.models import run_exactly


def assert_equal(
    op_type: str,
    shape: tuple[int, ...],
    constants: dict[str, np.ndarray],
    opset: int = 19,
    outputs: Sequence[str] = ("y",),
    **attributes: Any,
) -> None:
    names = ["x", *(k if v.size else "" for k, v in constants.items())]
    nodes = [helper.make_node(op_type, names, outputs, **attributes)]
    assert_nodes_equal(nodes, shape, constants, opset, outputs)


def assert_nodes_equal(
    nodes: Sequence[onnx.NodeProto],
    shape: tuple[int, ...],
    constants: dict[str, np.ndarray],
    opset: int = 19,
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
) -> None:
    weights = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "one", [x], declared, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype("float32")}
    actual = dict(evaluate_model(model, feeds, 60))
    for name, expected in zip(outputs, run_exactly(model, feeds), strict=True):
        np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=1e-5)


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)),
    }
    mode = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode != "NOTSET":
        attributes["auto_pad"] = mode
        # ONNX Runtime refuses strides that leave pixels out here.
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)]
    else:
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    return (2, 3, *draw(st.lists(st.integers(4, 7), min_size=rank, max_size=rank))), attributes


@given(pools(), st.integers(0, 1), st.booleans())
def test_pools(pool: tuple[tuple[int, ...], dict[str, Any]], include: int, average: bool) -> None:
    shape, attributes = pool
    if average:
        # ONNX Runtime counts the pixels of a window that reaches behind the padding otherwise than the standard says.
        attributes = {k: v for k, v in attributes.items() if k != "ceil_mode"}
        assert_equal("AveragePool", shape, {}, count_include_pad=include, **attributes)
    else:
        assert_equal("MaxPool", shape, {}, **attributes)


@given(st.integers(1, 9), st.sampled_from([1, 3, 5]), st.integers(1, 3))
def test_local_response_normalization(channels: int, size: int, batch: int) -> None:
    assert_equal("LRN", (batch, channels, 3, 4), {}, size=size, alpha=0.5, beta=0.75, bias=2.0)


@given(st.integers(1, 3), st.sampled_from(["GlobalMaxPool", "GlobalLpPool"]))
def test_global_pools(rank: int, op_type: str) -> None:
    assert_equal(op_type, (2, 3, *(4, 3, 5)[:rank]), {})


@given(
    st.sampled_from(["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5])] * 2),
)
def test_nearest_neighbour_resizing(mode: str, rounding: str, factors: tuple[float, float]) -> None:
    # Where the size isn't whole, aligned corners are something else to each runtime, and a symmetric result's places
    # may be whole but for the last bit.
    assume(mode not in ("align_corners", "half_pixel_symmetric") or all(f % 1 == 0 for f in factors))
    constants = {"roi": np.zeros(0, "float32"), "scales": np.array([1, 1, *factors], "float32")}
    assert_equal(
        "Resize", (1, 2, 7, 9), constants, mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=mode
    )


@given(
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from(["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
    st.booleans(),
    st.booleans(),
)
def test_interpolation(mode: str, transform: str, sizes: tuple[int, int], antialias: bool, excluding: bool) -> None:
    # ONNX Runtime has no antialiasing for these.
    assume(not antialias or transform in ("half_pixel", "asymmetric"))
    constants = {"roi": np.zeros(0, "f"), "scales": np.zeros(0, "f"), "sizes": np.array([1, 2, *sizes])}
    attributes = {"antialias": antialias, "exclude_outside": excluding and mode == "cubic"}
    assert_equal("Resize", (1, 2, 7, 9), constants, mode=mode, coordinate_transformation_mode=transform, **attributes)


@given(st.sampled_from(["nearest", "linear"]), st.tuples(*[st.integers(0, 6), st.integers(8, 20)] * 2))
def test_resizing_of_a_region(mode: str, region: tuple[int, ...]) -> None:
    top, bottom, left, right = (v / 16 for v in region)
    roi = np.array([0, 0, top, left, 1, 1, bottom, right], "f")
    constants = {"roi": roi, "scales": np.zeros(0, "f"), "sizes": np.array([1, 2, 5, 6])}
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.5}
    assert_equal("Resize", (1, 2, 7, 9), constants, mode=mode, **attributes)


@st.composite
def recurrent_layers(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    kind, hidden, inputs, batch = draw(st.sampled_from(["GRU", "LSTM", "RNN"])), 3, 4, 2
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions = 2 if direction == "bidirectional" else 1
    rows = hidden * {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    shapes = {"w": (rows, inputs), "r": (rows, hidden), "b": (2 * rows,), "lengths": (), "h": (batch, hidden)}
    if kind == "LSTM":
        shapes |= {"c": (batch, hidden), "p": (3 * hidden,)}
    random = np.random.default_rng(1)
    constants = {
        name: (0.3 * random.standard_normal((directions, *shape))).astype("float32")
        if name in "wr" or (name != "lengths" and draw(st.booleans()))
        else np.zeros(0, "float32")
        for name, shape in shapes.items()
    }
    count = {"GRU": 2, "LSTM": 3, "RNN": 1}[kind] * directions
    functions = st.sampled_from(["Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"])
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    attributes |= draw(st.sampled_from([{}, {"clip": 0.5}]))
    attributes |= draw(
        st.sampled_from([{}, {"activations": draw(st.lists(functions, min_size=count, max_size=count))}])
    )
    flag = {"GRU": "linear_before_reset", "LSTM": "input_forget"}.get(kind)
    return kind, constants, attributes | ({flag: draw(st.integers(0, 1))} if flag else {})


@given(recurrent_layers())
def test_recurrent_layers(layer: tuple[str, dict[str, np.ndarray], dict[str, Any]]) -> None:
    kind, constants, attributes = layer
    outputs = ["y", "h_last", "c_last"] if kind == "LSTM" else ["y", "h_last"]
    assert_equal(kind, (5, 2, 4), constants, outputs=outputs, **attributes)


@given(
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "sizes"]),
)
def test_transposed_convolutions(groups: int, stride: int, dilation: int, padding: str) -> None:
    random = np.random.default_rng(1)
    constants = {"w": random.standard_normal((4, 3, 3, 2)).astype("f"), "b": np.arange(3 * groups, dtype="f")}
    # ONNX Runtime gives smaller results where a stride is larger than the window.
    strides = [stride, min(stride, 2)]
    attributes = {"strides": strides, "dilations": [dilation, dilation], "group": groups}
    shape: dict[str, Any] = (
        {"auto_pad": padding} if padding != "sizes" else {"output_shape": [5 * strides[0], 6 * strides[1]]}
    )
    assert_equal("ConvTranspose", (2, 4, 5, 6), constants, **attributes, **shape)


@given(st.sampled_from([1, 2]), st.integers(-3, 2))
def test_normalization_by_a_norm(p: int, axis: int) -> None:
    assert_equal("LpNormalization", (2, 3, 4), {}, p=p, axis=axis)


@given(st.lists(st.integers(-1, 2), min_size=4, max_size=4))
def test_padding_and_cutting(widths: list[int]) -> None:
    pads = np.array([0, *widths[:2], 0, *widths[2:]])
    assert_equal("Pad", (2, 3, 4), {"pads": pads, "value": np.float32(7)})


@given(
    st.sampled_from([(16, "bilinear"), (16, "bicubic"), (16, "nearest"), (20, "linear"), (20, "cubic")]),
    st.sampled_from(["zeros", "border", "reflection"]),
    st.integers(0, 1),
)
def test_sampling_by_a_grid(mode: tuple[int, str], padding: str, corners: int) -> None:
    grid = np.random.default_rng(1).uniform(-1.9, 1.9, (2, 6, 7, 2)).astype("f")
    attributes = {"mode": mode[1], "padding_mode": padding, "align_corners": corners}
    assert_equal("GridSample", (2, 3, 4, 5), {"grid": grid}, mode[0], **attributes)


@given(st.sampled_from(["zeros", "border", "reflection"]), st.sampled_from(["linear", "nearest"]))
def test_sampling_of_volumes_by_a_grid(padding: str, mode: str) -> None:
    grid = np.random.default_rng(1).uniform(-1.9, 1.9, (1, 3, 4, 5, 3)).astype("f")
    assert_equal("GridSample", (1, 2, 3, 4, 5), {"grid": grid}, 20, mode=mode, padding_mode=padding)


@pytest.mark.parametrize("opset", [10, 15, 16])
def test_regions_are_in_whole_pixels_before_set_16(opset: int) -> None:
    regions = {"rois": np.array([[1, 1, 6, 5]], "f"), "images": np.array([0])}
    assert_equal("RoiAlign", (1, 2, 8, 8), regions, opset, output_height=2, output_width=3, sampling_ratio=2)


def test_nodes_in_branches_and_loops_are_of_the_models_operator_set() -> None:
    softmax = [helper.make_node("Softmax", ["x"], ["s"])]
    branch = helper.make_graph(softmax, "branch", [], [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)])
    taken = helper.make_node("If", ["true"], ["taken"], then_branch=branch, else_branch=branch)
    names = {"turn": TensorProto.INT64, "go": TensorProto.BOOL, "v": TensorProto.FLOAT}
    turn = [
        helper.make_node("Softmax", ["v"], ["w"]),
        helper.make_node("Identity", ["w"], ["row"]),
        helper.make_node("Identity", ["go"], ["more"]),
    ]
    inputs = [helper.make_tensor_value_info(n, t, None if n == "v" else []) for n, t in names.items()]
    results = [helper.make_tensor_value_info("more", TensorProto.BOOL, [])]
    results += [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("w", "row")]
    body = helper.make_graph(turn, "body", inputs, results)
    loop = helper.make_node("Loop", ["turns", "", "taken"], ["y", "rows"], body=body)
    constants = {"true": np.array(True), "turns": np.array(3)}
    assert_nodes_equal([taken, loop], (2, 3, 4), constants, 11, ["y", "rows"])


def test_functions_of_the_model_with_attributes_and_without_all_inputs() -> None:
    inner = helper.make_node("LeakyRelu", ["a"], ["b"])
    inner.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    opsets = [helper.make_opsetid("", 19)]
    leaky = helper.make_function("own", "Leaky", ["a", "unused"], ["b"], [inner], opsets, ["slope"])
    call = helper.make_node("Leaky", ["x"], ["y"], domain="own", slope=0.3)
    assert_nodes_equal([call], (2, 3), {}, functions=[leaky])


@given(st.data())
def test_elements_gathered_from_a_part_of_the_data(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = [data.draw(st.integers(1, 5 if k == axis % len(shape) else s)) for k, s in enumerate(shape)]
    indices = np.random.default_rng(0).integers(-shape[axis], shape[axis], size)
    assert_equal("GatherElements", shape, {"indices": indices}, axis=axis)
