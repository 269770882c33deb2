"""The operators that stand in for ONNX's reference implementation's own give what ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pipeline.importer.evaluate import evaluate_graph
from tests.models import run_exactly


def assert_equal(op_type: str, shape: tuple[int, ...], constants: dict[str, np.ndarray], **attributes: Any) -> None:
    weights = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    names = ["x", *(k if v.size else "" for k, v in constants.items())]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        [node], "one", [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype("float32")}
    (expected,) = run_exactly(model, feeds)
    np.testing.assert_allclose(dict(evaluate_graph(model, feeds, 60))["y"], expected, rtol=1e-4, atol=1e-6)


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
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5])] * 2),
)
def test_nearest_neighbour_resizing(mode: str, rounding: str, factors: tuple[float, float]) -> None:
    constants = {"roi": np.zeros(0, "float32"), "scales": np.array([1, 1, *factors], "float32")}
    assert_equal(
        "Resize", (1, 2, 7, 9), constants, mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=mode
    )


@given(st.data())
def test_elements_gathered_from_a_part_of_the_data(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = [data.draw(st.integers(1, 5 if k == axis % len(shape) else s)) for k, s in enumerate(shape)]
    indices = np.random.default_rng(0).integers(-shape[axis], shape[axis], size)
    assert_equal("GatherElements", shape, {"indices": indices}, axis=axis)
