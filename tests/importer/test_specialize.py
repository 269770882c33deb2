"""Specialization folds what follows from fixed shapes, and what remains computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.frontend import CONVERTIBLE
from pipeline.importer.normalize import normalize
from pipeline.importer.normalize.specialize import graph
from tests.models import ModelBuilder, run_exactly

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node_types(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def specialized(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the specialized model, after comparing it with the given one in ONNX Runtime."""
    result = normalize(model, {k: v.shape for k, v in feeds.items()}, CONVERTIBLE)
    onnx.checker.check_model(result, full_check=True)
    for actual, expected in zip(run_exactly(result, feeds), run_exactly(model, feeds), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    return result


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape or (1, 3, 4, 5)).astype("float32")


def test_shape_arithmetic_is_computed() -> None:
    b = ModelBuilder()
    shape = b.node("Shape", "x")
    batch = b.node("Gather", shape, b.constant(np.array([0])), axis=0)
    target = b.node("Concat", batch, b.constant(np.array([-1])), axis=0)
    b.node("Reshape", "x", b.node("Cast", target, to=INT64), name="y")
    result = specialized(b.model({"x": ["n", 3, "h", "w"]}, "y"), {"x": image(2, 3, 4, 5)})
    assert node_types(result) == ["Reshape"]
    assert numpy_helper.to_array(result.graph.initializer[0]).tolist() == [2, 60]


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_a_choice_that_is_known_gathers(axis: int | None) -> None:
    b = ModelBuilder()
    chosen = b.constant(np.array([True, False, True]))
    b.node("Compress", "x", chosen, name="y", **({} if axis is None else {"axis": axis}))
    result = specialized(b.model({"x": [1, 3, 4, 5]}, "y"), {"x": image()})
    assert node_types(result)[-1] == "Gather"


def test_pads_that_are_reversed_by_a_slice_of_negative_step() -> None:
    b = ModelBuilder()
    pads = b.node("Reshape", b.constant(np.array([1, 2, 0, 3, 0, 0, 0, 0])), b.constant(np.array([-1, 2])))
    last, first = b.constant(np.array([-1])), b.constant(np.array([-(2**63) + 1]))
    rows, back = b.constant(np.array([0])), b.constant(np.array([-1]))
    reversed_ = b.node("Transpose", b.node("Slice", pads, last, first, rows, back), perm=[1, 0])
    flat = b.node("Reshape", reversed_, b.constant(np.array([-1])))
    b.node("Pad", "x", b.node("Cast", flat, to=INT64), b.constant(np.float32(0)), name="y")
    result = specialized(b.model({"x": [1, 3, 4, 5]}, "y"), {"x": image()})
    assert node_types(result) == ["Pad"]


def test_equal_nodes_become_one_and_outputs_keep_their_names() -> None:
    b = ModelBuilder()
    b.node("Relu", "x", name="a")
    b.node("Relu", "x", name="b")
    b.node("Identity", "x", name="c")
    result = specialized(b.model({"x": [1, 3, 4, 5]}, "a", "b", "c"), {"x": image()})
    assert node_types(result) == ["Relu", "Identity", "Identity"]
    assert [o.name for o in result.graph.output] == ["a", "b", "c"]


def test_nodes_that_change_nothing_or_that_nothing_reads_go() -> None:
    b = ModelBuilder()
    b.node("Exp", "x")
    y = b.node("Pad", "x", b.constant(np.zeros(8, "int64")))
    y = b.node("Expand", y, b.constant(np.array([1, 3, 1, 1])))
    y = b.node("Slice", y, b.constant(np.array([0])), b.constant(np.array([99])))
    y = b.node("Tile", y, b.constant(np.ones(4, "int64")))
    y = b.node("Cast", b.node("Dropout", y), to=FLOAT)
    y = b.node("Concat", b.node("Reshape", y, b.constant(np.array([0, 0, 0, 5]))), axis=1)
    b.node("Neg", y, name="y")
    assert node_types(specialized(b.model({"x": [1, 3, 4, 5]}, "y"), {"x": image()})) == ["Neg"]


def test_parts_without_elements_are_left_out_of_a_concatenation() -> None:
    b = ModelBuilder()
    b.node("Concat", "x", b.constant(np.zeros((1, 0, 4, 5), "float32")), "x", axis=1, name="y")
    result = specialized(b.model({"x": [1, 3, 4, 5]}, "y"), {"x": image()})
    assert len(result.graph.node[0].input) == 2


def test_outputs_that_nothing_reads_are_not_asked_for() -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2]),
        helper.make_node("Dropout", ["y"], ["z", "mask"]),
    ]
    result = specialized(graph_model(nodes, [("z", FLOAT)]), {"x": image()})
    assert [list(n.output) for n in result.graph.node] == [["y"], ["z"]]


def test_a_split_keeps_parts_that_nothing_reads() -> None:
    node = helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1)
    result = specialized(graph_model([node], [("a", FLOAT)]), {"x": image()})
    assert list(result.graph.node[0].output) == ["a", "b", "c"]


def test_the_mask_of_a_dropout_keeps_everything() -> None:
    result = specialized(
        graph_model([helper.make_node("Dropout", ["x"], ["y", "mask"])], [("y", FLOAT), ("mask", BOOL)]), {"x": image()}
    )
    assert node_types(result) == ["Identity"]
    assert numpy_helper.to_array(result.graph.initializer[0]).all()


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[tuple[str, int]],
    weights: Sequence[onnx.TensorProto] = (),
    **more: Any,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 3, 4, 5])
    results = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs]
    graph = helper.make_graph(nodes, "graph", [x], results, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def branch(op_type: str, output: str) -> onnx.GraphProto:
    node = helper.make_node(op_type, ["x"], [output])
    return helper.make_graph([node], output, [], [helper.make_tensor_value_info(output, FLOAT, None)])


@pytest.mark.parametrize(("batch", "taken"), [(1, "Neg"), (2, "Exp")])
def test_a_branch_that_the_shape_decides_is_taken(batch: int, taken: str) -> None:
    one, axis = numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.array([0]), "axis")
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["n"]),
        helper.make_node("Equal", ["n", "one"], ["single"]),
        helper.make_node("Squeeze", ["single"], ["condition"]),
        helper.make_node("If", ["condition"], ["z"], then_branch=branch("Neg", "a"), else_branch=branch("Exp", "b")),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    result = specialized(graph_model(nodes, [("y", FLOAT)], [one, axis]), {"x": image(batch, 3, 4, 5)})
    assert node_types(result) == [taken, "Relu"]


def test_what_branches_and_loops_hold_is_of_the_models_operator_set() -> None:
    true, turns = numpy_helper.from_array(np.array(True), "true"), numpy_helper.from_array(np.array(2), "turns")
    inputs = [helper.make_tensor_value_info(n, t, []) for n, t in (("turn", INT64), ("go", BOOL))]
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("on", BOOL), ("last", FLOAT), ("row", FLOAT))]
    turn = [
        helper.make_node("Softmax", ["value"], ["last"]),
        helper.make_node("Identity", ["last"], ["row"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    inputs.append(helper.make_tensor_value_info("value", FLOAT, None))
    body = helper.make_graph(turn, "body", inputs, outputs)
    nodes = [
        helper.make_node("If", ["true"], ["z"], then_branch=branch("Softmax", "a"), else_branch=branch("Exp", "b")),
        helper.make_node("Loop", ["turns", "", "z"], ["y", "rows"], body=body),
    ]
    model = graph_model(nodes, [("y", FLOAT), ("rows", FLOAT)], [true, turns])
    model.opset_import[0].version = 11
    specialized(model, {"x": image()})


def test_an_operator_of_another_type_is_refused_by_the_inputs_name() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT16, [1, 2, 8])
    y = helper.make_tensor_value_info("y", TensorProto.INT16, None)
    graph_ = helper.make_graph([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2])], "g", [x], [y])
    model = helper.make_model(graph_, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match=r"MaxPool 'y' doesn't fit its inputs \(x int16.*X can't be of type int16"):
        normalize(model, {}, CONVERTIBLE)


def loop(turns: str, condition: str, body_condition: onnx.NodeProto) -> onnx.ModelProto:
    value_info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            body_condition,
            helper.make_node("Cast", ["i"], ["number"], to=FLOAT),
            helper.make_node("Add", ["sum", "number"], ["grown"]),
            helper.make_node("Mul", ["grown", "x"], ["next"]),
            helper.make_node("ReduceMean", ["next"], ["mean"], keepdims=0),
        ],
        "body",
        [value_info("i", INT64, []), value_info("going", BOOL, []), value_info("sum", FLOAT, None)],
        [value_info("more", BOOL, []), value_info("next", FLOAT, None), value_info("mean", FLOAT, None)],
    )
    weights = [numpy_helper.from_array(np.array(3), "three"), numpy_helper.from_array(np.array(True), "true")]
    node = helper.make_node("Loop", [turns, condition, "x"], ["last", "means"], body=body)
    return graph_model([node], [("last", FLOAT), ("means", FLOAT)], weights)


def test_a_loop_of_known_length_is_written_out() -> None:
    result = specialized(loop("three", "", helper.make_node("Identity", ["going"], ["more"])), {"x": image()})
    assert node_types(result).count("Mul") == 3
    assert "Loop" not in node_types(result)


def test_a_loop_ends_when_its_condition_does() -> None:
    condition = helper.make_node("Less", ["i", "three"], ["more"])
    result = specialized(loop("", "true", condition), {"x": image()})
    assert node_types(result).count("Mul") == 4


def test_a_loop_without_end_is_refused() -> None:
    with pytest.raises(ModelError, match="Loop 'last' has more than 1024 iterations"):
        normalize(loop("", "true", helper.make_node("Identity", ["going"], ["more"])), {"x": (1, 3, 4, 5)}, CONVERTIBLE)


def test_loops_within_loops_that_add_no_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MAX_NODES", 500)
    outer: onnx.NodeProto | None = None
    for i in range(3):
        names = {name: f"{name}{i}" for name in ("turn", "going", "on", "sum", "next")}
        inner = helper.make_node("Add", [names["sum"], "one"], [names["next"]]) if outer is None else outer
        values = [
            helper.make_tensor_value_info(names["turn"], TensorProto.INT64, []),
            helper.make_tensor_value_info(names["going"], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names["sum"], TensorProto.FLOAT, []),
        ]
        results = [
            helper.make_tensor_value_info(names["on"], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names["next"], TensorProto.FLOAT, []),
        ]
        nodes = [helper.make_node("Identity", [names["going"]], [names["on"]]), inner]
        body = helper.make_graph(nodes, names["turn"], values, results)
        # This loop continues the sum of the outer loop.
        around = ("zero", "total") if i == 2 else (f"sum{i + 1}", f"next{i + 1}")
        outer = helper.make_node("Loop", ["count", "", around[0]], [around[1]], body=body)
    b = ModelBuilder()
    b.node("Add", "x", "total", name="y")
    b.nodes.insert(0, outer)
    model = b.model({"x": (1,)}, "y")
    for name, value in (("count", np.array(10)), ("one", np.float32(1)), ("zero", np.float32(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(ModelError, match="has more than 500 nodes once its loops and functions are expanded"):
        normalize(model, {}, CONVERTIBLE)
    monkeypatch.setattr(graph, "MAX_NODES", 10_000)
    x = np.array([5], "float32")
    np.testing.assert_array_equal(run_exactly(specialized(model, {"x": x}), {"x": x})[0], [1005])


def test_the_models_own_functions_are_written_out_with_their_attributes() -> None:
    scaled = helper.make_node("Elu", ["a"], ["b"])
    scaled.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Bent", ["a"], ["b"], [scaled], opsets, ["slope"])
    call = helper.make_node("Bent", ["p"], ["q"], domain="own")
    call.attribute.append(onnx.AttributeProto(name="slope", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    outer_nodes = [call, helper.make_node("Neg", ["q"], ["r"])]
    default = [helper.make_attribute("slope", 0.5)]
    outer = helper.make_function("own", "Twice", ["p"], ["r"], outer_nodes, opsets, [], default)
    nodes = [
        helper.make_node("Twice", ["x"], ["a"], domain="own", slope=0.25),
        helper.make_node("Twice", ["a"], ["b"], domain="own"),
    ]
    result = specialized(graph_model(nodes, [("b", FLOAT)], functions=[inner, outer]), {"x": image()})
    slopes = [helper.get_node_attr_value(n, "alpha") for n in result.graph.node if n.op_type == "Elu"]
    assert slopes == [0.25, 0.5]


def test_operators_that_are_functions_of_others_are_written_out() -> None:
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2, 3])
    result = specialized(graph_model([node], [("y", FLOAT)]), {"x": image()})
    assert "MeanVarianceNormalization" not in node_types(result)


def test_the_mean_of_a_layer_normalization_can_be_had() -> None:
    scale = numpy_helper.from_array(np.ones(5, "float32"), "scale")
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y", "mean"])
    specialized(graph_model([node], [("y", FLOAT), ("mean", FLOAT)], [scale]), {"x": image()})


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_become_float32_inside_and_stay_outside(dtype: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = numpy_helper.from_array(np.full((5, 2), 0.5, dtype), "w")
    x = helper.make_tensor_value_info("x", code, [1, 3, 5])
    y = helper.make_tensor_value_info("y", code, None)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "other", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = normalize(model, {}, CONVERTIBLE)
    feeds = {"x": image(1, 3, 5).astype(dtype)}
    (actual,), (expected,) = run_exactly(result, feeds), run_exactly(model, feeds)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual.astype("float64"), expected.astype("float64"), rtol=2e-3, atol=1e-3)
    assert [t.data_type for t in result.graph.initializer] == [FLOAT]


def test_a_node_that_does_not_fit_its_inputs_is_named() -> None:
    weight = numpy_helper.from_array(np.ones((4, 2), "float32"), "w")
    model = graph_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [("y", FLOAT)], [weight])
    with pytest.raises(
        ModelError, match=r"MatMul 'y' doesn't fit its inputs \(x float\[1, 3, 4, 5\], w float\[4, 2\]\)"
    ):
        normalize(model, {}, CONVERTIBLE)


def test_a_tensor_beyond_all_bounds_is_refused_before_it_is_made() -> None:
    pads = numpy_helper.from_array(np.array([0, 0, 20_000, 20_000] * 2), "pads")
    model = graph_model([helper.make_node("Pad", ["x", "pads"], ["y"])], [("y", FLOAT)], [pads])
    with pytest.raises(ModelError, match=r"Tensor 'y' has the shape \[1, 3, 40004, 40005\]"):
        normalize(model, {}, CONVERTIBLE)
