"""An invalid model is refused with one sentence that says where and why; a valid one is accepted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.read.check import check_model
from pipeline.importer.read.check.contents import MAX_NESTING
from tests.models import ModelBuilder, small_network

Change = Callable[[ModelProto], None]


def plain() -> ModelProto:
    """Return a model of two nodes: Gemm of x, and its Relu, y."""
    b = ModelBuilder()
    hidden = b.node("Gemm", "x", b.constant(np.ones((3, 2), "float32")), name="hidden")
    return b.model({"x": (1, 3)}, b.node("Relu", hidden, name="y"))


def with_branches(body: GraphProto | None = None) -> ModelProto:
    """Return a model with an If, whose branches are `body`, or by default read the Relu of x of the outer graph."""
    inner = helper.make_graph([helper.make_node("Neg", ["r"], ["n"])], "inner", [], [_value("n")])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("If", ["c"], ["y"], then_branch=body or inner, else_branch=inner),
    ]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "outer", [_value("x"), condition], [_value("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_function(calls: dict[str, list[str]], main: str) -> ModelProto:
    """Return a model that calls the function `main`; a function calls others one after the other, or if none, Relu."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    functions = []
    for name, callees in calls.items():
        nodes = [helper.make_node(c, [f"t{i}"], [f"t{i + 1}"], domain="ours") for i, c in enumerate(callees)]
        nodes = nodes or [helper.make_node("Relu", ["t0"], ["t1"])]
        functions.append(helper.make_function("ours", name, ["t0"], [f"t{len(nodes)}"], nodes, opset))
    graph = helper.make_graph([helper.make_node(main, ["x"], ["y"], domain="ours")], "g", [_value("x")], [_value("y")])
    return helper.make_model(graph, opset_imports=opset, functions=functions, ir_version=8)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])


def message(model: ModelProto) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(model, "m.onnx")
    return str(caught.value)


@pytest.mark.parametrize(
    "model",
    [plain(), small_network(), with_branches(), with_function({"f": ["g", "g"], "g": []}, "f")],
    ids=["plain", "network", "branches", "functions"],
)
def test_a_sound_model_comes_back_as_it_is(model: ModelProto) -> None:
    assert check_model(model, "m.onnx") is model


def _reads_nothing(m: ModelProto) -> None:
    m.graph.node[1].input[0] = "nowhere"


def _two_writers(m: ModelProto) -> None:
    m.graph.node[1].output[0] = "hidden"


def _writes_an_input(m: ModelProto) -> None:
    m.graph.node[1].output[0] = "x"


def _weight_twice(m: ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def _input_twice(m: ModelProto) -> None:
    m.graph.input.append(m.graph.input[0])


def _output_twice(m: ModelProto) -> None:
    m.graph.output.append(m.graph.output[0])


def _unknown_output(m: ModelProto) -> None:
    m.graph.output[0].name = "z"


def _nameless_input(m: ModelProto) -> None:
    m.graph.input[0].name = ""


def _no_operator(m: ModelProto) -> None:
    m.graph.node[1].op_type = ""


def _no_outputs(m: ModelProto) -> None:
    m.graph.node.add(op_type="Relu", name="lost", input=["x"])


def _self_reference(m: ModelProto) -> None:
    m.graph.node[0].input[0] = "hidden"


def _circle(m: ModelProto) -> None:
    m.graph.node[0].input[0] = "y"


def _no_inputs(m: ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3), "float32"), "x"))


def _sequence_input(m: ModelProto) -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    m.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(element))


def _optional_output(m: ModelProto) -> None:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    m.graph.output[0].type.CopyFrom(helper.make_optional_type_proto(element))


def _text_input(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def _unknown_dtype(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = 99


def _untyped_input(m: ModelProto) -> None:
    m.graph.input[0].ClearField("type")


def _new_opset(m: ModelProto) -> None:
    m.opset_import[0].version = onnx.defs.onnx_opset_version() + 1


def _new_ir(m: ModelProto) -> None:
    m.ir_version = onnx.IR_VERSION + 1


def _no_opset(m: ModelProto) -> None:
    del m.opset_import[:]


def _other_opset(m: ModelProto) -> None:
    m.opset_import[0].domain = "ai.onnx.ml"


def _too_many_inputs(m: ModelProto) -> None:
    m.graph.node[1].input.extend(["x", "x"])


def _too_few_inputs(m: ModelProto) -> None:
    del m.graph.node[0].input[1]


def _empty_input(m: ModelProto) -> None:
    m.graph.node[0].input[1] = ""


def _too_many_outputs(m: ModelProto) -> None:
    m.graph.node[1].output.append("second")


def _unknown_attribute(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("gamma", 1.0))


def _attribute_of_another_type(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("transB", 1.0))


def _attribute_twice(m: ModelProto) -> None:
    m.graph.node[0].attribute.extend([helper.make_attribute("alpha", 1.0)] * 2)


def _attribute_without_type(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(AttributeProto(name="alpha", f=1.0))


def _attribute_with_another_value(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, i=1))


def _attribute_without_name(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(AttributeProto(type=AttributeProto.FLOAT, f=1.0))


def _reference_outside_of_functions(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="a"))


def _lacking_attribute(m: ModelProto) -> None:
    m.graph.node[1].op_type = "Cast"


def _empty_constant(m: ModelProto) -> None:
    m.graph.node.append(helper.make_node("Constant", [], ["c"], name="nothing"))


def _constant_without_value(m: ModelProto) -> None:
    m.graph.node.append(helper.make_node("Constant", [], ["c"], name="nothing"))
    m.graph.node[-1].attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR))


def _unknown_element_type(m: ModelProto) -> None:
    m.graph.node[1].CopyFrom(helper.make_node("Cast", ["hidden"], ["y"], to=0))


def _text_that_is_no_text(m: ModelProto) -> None:
    m.graph.node[1].CopyFrom(helper.make_node("Gelu", ["hidden"], ["y"], approximate=b"no\xffne"))
    m.opset_import[0].version = 20


def _name_that_is_no_text(m: ModelProto) -> None:
    data = m.SerializeToString().replace(b"hidden", b"hidde\xff")
    m.ParseFromString(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_reads_nothing, "Relu 'y' reads the tensor 'nowhere', which nothing computes"),
        (_two_writers, "Relu 'hidden' computes the tensor 'hidden', which is defined already"),
        (_writes_an_input, "Relu 'x' computes the tensor 'x', which is defined already"),
        (_weight_twice, "there are two weights called 'w0'"),
        (_input_twice, "there are two inputs called 'x'"),
        (_output_twice, "there are two outputs called 'y'"),
        (_unknown_output, "nothing computes the output 'z'"),
        (_nameless_input, "an input has no name"),
        (_no_operator, "has no operator"),
        (_no_outputs, "Relu 'lost' has no outputs"),
        (_self_reference, "in a cycle: Gemm 'hidden'."),
        (_circle, "in a cycle: Gemm 'hidden', Relu 'y'."),
        (_no_inputs, "it has no inputs (what it lists as inputs are weights)"),
        (_sequence_input, "input 'x' isn't a tensor (sequence)"),
        (_optional_output, "output 'y' isn't a tensor (optional)"),
        (_text_input, "input 'x' has the element type string"),
        (_unknown_dtype, "input 'x' has the element type unknown type 99"),
        (_untyped_input, "input 'x' isn't a tensor (missing)"),
        (_new_opset, f"supports 1 to {onnx.defs.onnx_opset_version()}. Install a newer onnx"),
        (_new_ir, f"supports at most {onnx.IR_VERSION}"),
        (_no_opset, "it names no operator set"),
        (_other_opset, "only of 'ai.onnx.ml', which can't be compiled"),
        (_too_many_inputs, "Relu 'y' has 3 inputs; at most 1 are allowed"),
        (_too_few_inputs, "Gemm 'hidden' lacks its input 'B'"),
        (_empty_input, "Gemm 'hidden' lacks its input 'B'"),
        (_too_many_outputs, "Relu 'y' has 2 outputs; at most 1 are allowed"),
        (_unknown_attribute, "attribute 'gamma', which Gemm of operator set 17 doesn't know. Known: alpha, beta"),
        (_attribute_of_another_type, "attribute 'transB' of Gemm 'hidden' has the type FLOAT; expected INT"),
        (_attribute_twice, "Gemm 'hidden' has an attribute twice: alpha"),
        (_attribute_without_type, "attribute 'alpha' of Gemm 'hidden' has no type"),
        (_attribute_with_another_value, "should have a value of type FLOAT, but has: i"),
        (_attribute_without_name, "an attribute whose name is missing"),
        (_reference_outside_of_functions, "refers to 'a', which nothing around it defines"),
        (_lacking_attribute, "Cast 'y' lacks its attribute 'to'"),
        (_empty_constant, "Constant 'nothing' has 0 attributes"),
        (_constant_without_value, "should have a value of type TENSOR, but has: nothing"),
        (_unknown_element_type, "attribute 'to' of Cast 'y' is undefined; expected an element type"),
        (_text_that_is_no_text, "attribute 'approximate' of Gelu 'y' isn't UTF-8 text"),
        (_name_that_is_no_text, "isn't UTF-8 text"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_model_that_cannot_be_is_refused(change: Change, said: str) -> None:
    model = plain()
    change(model)
    refusal = message(model)
    assert refusal.startswith("Model m.onnx: ")
    assert said in refusal


def test_nodes_out_of_order_are_put_in_order_in_a_copy() -> None:
    expected = small_network()
    shuffled = small_network()
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(expected.graph.node))
    before = shuffled.SerializeToString()
    ordered = check_model(shuffled, "m.onnx")
    assert shuffled.SerializeToString() == before
    known = {"x", "", *(t.name for t in ordered.graph.initializer)}
    for node in ordered.graph.node:
        assert known.issuperset(node.input)
        known.update(node.output)
    assert sorted(n.output[0] for n in ordered.graph.node) == sorted(n.output[0] for n in expected.graph.node)


def test_what_a_branch_reads_from_around_it_counts_for_the_order() -> None:
    model = with_branches()
    model.graph.node.insert(0, model.graph.node.pop())
    assert [n.op_type for n in check_model(model, "m.onnx").graph.node] == ["Relu", "If"]


def test_nodes_of_branches_and_functions_are_put_in_order() -> None:
    nodes = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Abs", ["r"], ["a"])]
    model = with_branches(helper.make_graph(nodes, "inner", [], [_value("b")]))
    branch = check_model(model, "m.onnx").graph.node[1].attribute[1].g
    assert [n.op_type for n in branch.node] == ["Abs", "Neg"]
    model = with_function({"f": ["g", "g"], "g": []}, "f")
    function = model.functions[0]
    function.node.insert(0, function.node.pop())
    assert [n.input[0] for n in check_model(model, "m.onnx").functions[0].node] == ["t0", "t1"]


def test_a_branch_may_use_a_name_of_its_own_that_is_known_around_it() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["r"])]
    check_model(with_branches(helper.make_graph(nodes, "inner", [], [_value("r")])), "m.onnx")


def test_what_a_branch_computes_is_not_known_around_it() -> None:
    model = with_branches()
    model.graph.output[0].name = "n"
    assert "nothing computes the output 'n'" in message(model)


def test_a_branch_gives_as_many_results_as_its_node_takes() -> None:
    model = with_branches()
    model.graph.node[1].output.append("second")
    assert "then_branch of If 'y' has 0 inputs and 1 outputs; expected 0 and 2" in message(model)


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (["count", "", "x"], ["y"], None),
        (["count", "", "x", "x"], ["y"], "body of Loop 'y' has 3 inputs and 2 outputs; expected 4 and 2"),
        (["count", "", "x"], ["y", "z"], "body of Loop 'y' has 3 inputs and 2 outputs; expected 3 and 3"),
    ],
    ids=["fits", "inputs", "outputs"],
)
def test_a_loop_carries_what_its_body_takes(inputs: list[str], outputs: list[str], said: str | None) -> None:
    values = [
        helper.make_tensor_value_info("n", TensorProto.INT64, []),
        helper.make_tensor_value_info("g", TensorProto.BOOL, []),
        _value("s"),
    ]
    nodes = [helper.make_node("Identity", ["g"], ["on"]), helper.make_node("Neg", ["s"], ["t"])]
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph(nodes, "body", values, [on, _value("t")])
    count = numpy_helper.from_array(np.array(3), "count")
    loop = helper.make_node("Loop", inputs, outputs, body=body)
    graph = helper.make_graph([loop], "g", [_value("x")], [_value("y")], [count])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if said is None:
        assert check_model(model, "m.onnx") is model
    else:
        assert said in message(model)


def test_an_error_in_a_branch_names_the_branch() -> None:
    nodes = [helper.make_node("Abs", ["nowhere"], ["b"])]
    model = with_branches(helper.make_graph(nodes, "inner", [], [_value("b")]))
    assert "Abs 'b' in then_branch of If 'y' reads the tensor 'nowhere'" in message(model)


def test_graphs_nested_beyond_sense() -> None:
    model = with_branches()
    graph = model.graph.node[1].attribute[1].g
    for depth in range(MAX_NESTING + 1):
        node = graph.node.add(op_type="If", input=["c"], output=[f"d{depth}"])
        graph = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g
    assert f"more than {MAX_NESTING} deep" in message(model)


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ({"f": ["f"]}, "the function 'ours.f' calls itself"),
        ({"f": ["g"], "g": ["f"]}, "calls itself, directly or through others"),
        (
            {"f": ["g", "g"], **{c: [chr(ord(c) + 1)] * 2 for c in "ghijklmnopqrstuvwxy"}, "z": []},
            "the limit is 100000",
        ),
    ],
    ids=["itself", "each_other", "million_calls"],
)
def test_functions_that_would_never_end(calls: dict[str, list[str]], said: str) -> None:
    assert said in message(with_function(calls, "f"))


def test_two_functions_of_one_name() -> None:
    model = with_function({"f": []}, "f")
    model.functions.append(model.functions[0])
    assert "there are two functions called 'ours.f'" in message(model)


def test_a_function_given_more_than_it_takes() -> None:
    model = with_function({"f": []}, "f")
    model.graph.node[0].input.append("x")
    assert "f 'y' has 2 inputs; at most 1 are allowed" in message(model)


# Tensors: shapes, element types and data.


def _weight(**fields: object) -> ModelProto:
    model = plain()
    model.graph.initializer[0].CopyFrom(TensorProto(name="w0", **fields))
    return model


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data_type": 1, "dims": [2**20, 2**20]}, "4194304 values"),
        ({"data_type": 1, "dims": [2**20, 2**20], "raw_data": b""}, "4398046511104 bytes, but has 0"),
        ({"data_type": 1, "dims": [3, 2], "raw_data": bytes(20)}, "24 bytes, but has 20"),
        ({"data_type": 1, "dims": [3, 2], "float_data": [1.0] * 5}, "6 values, but has 5"),
        ({"data_type": 1, "dims": [3, 2], "int32_data": [1] * 6}, "6 values, but has 0"),
        ({"data_type": 22, "dims": [3, 2], "int32_data": [1] * 6}, "3 values, but has 6"),
        ({"data_type": 14, "dims": [3], "float_data": [1.0] * 3}, "6 values, but has 3"),
        (
            {"data_type": 1, "dims": [-3, -2], "float_data": [1.0] * 6},
            r"the shape [-3, -2]: it must have at most 64 dimensions, each from 0 to",
        ),
        ({"data_type": 1, "dims": [0, 2**62]}, "each from 0 to"),
        ({"data_type": 1, "dims": [1] * 99, "float_data": [1.0]}, "at most 64 dimensions"),
        ({"data_type": 0, "dims": [3, 2]}, "weight 'w0' has the element type undefined"),
        ({"data_type": 77, "dims": [3, 2]}, "weight 'w0' has the element type unknown type 77"),
        ({"data_type": 8, "dims": [1], "string_data": [b"a"]}, "has the element type string"),
        ({"data_type": 1, "dims": [3, 2], "data_location": 1}, "is stored in another file"),
        ({"data_type": 1, "dims": [0], "segment": TensorProto.Segment(begin=0, end=1)}, "stored in segments"),
    ],
)
def test_weights_that_do_not_hold_what_they_say(fields: dict[str, object], said: str) -> None:
    assert said in message(_weight(**fields)) or "1099511627776 values" in message(_weight(**fields))


@pytest.mark.parametrize("place", ["attribute", "branch", "function", "sparse"])
def test_tensors_are_checked_wherever_they_are(place: str) -> None:
    short = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2**40])
    constant = helper.make_node("Constant", [], ["c"], name="far", value=short)
    if place == "attribute":
        model, named = plain(), "attribute 'value' of Constant 'far' is float"
        model.graph.node.insert(0, constant)
    elif place == "branch":
        graph = helper.make_graph([helper.make_node("Abs", ["t"], ["b"])], "inner", [], [_value("b")], [short])
        model, named = with_branches(graph), "weight 't' in then_branch of If 'y' is float"
    elif place == "function":
        model, named = with_function({"f": []}, "f"), "Constant 'far' in the function 'ours.f' is float"
        model.functions[0].node.append(constant)
    else:
        model, named = plain(), "sparse weight 's'"
        model.graph.sparse_initializer.add(dims=[2**40], values=TensorProto(name="s", data_type=1, dims=[2**40]))
    short.dims[0] = 2**30
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        if node.name == "far":
            node.attribute[0].t.dims[0] = 2**30
    for attribute in model.graph.node[-1].attribute:
        for tensor in attribute.g.initializer:
            tensor.dims[0] = 2**30
    assert named in message(model)


def sparse(shape: list[int], indices: object) -> ModelProto:
    model = plain()
    values = numpy_helper.from_array(np.ones(2, "float32"), "s")
    places = numpy_helper.from_array(np.array(indices, "int64"), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, shape))
    return model


@pytest.mark.parametrize("indices", [[0, 5], [[0, 1], [2, 1]]], ids=["flat", "by_dimension"])
def test_sparse_weights_are_let_through(indices: object) -> None:
    check_model(sparse([3, 2], indices), "m.onnx")


@pytest.mark.parametrize(
    ("shape", "indices", "said"),
    [
        ([2**20, 2**20], [0, 1], "takes 4398046511104 bytes"),
        ([3, 2], [0, 6], "has indices outside of its shape"),
        ([3, 2], [-1, 0], "has indices outside of its shape"),
        ([3, 2], [[0, 0], [0, 2]], "has indices outside of its shape"),
        ([3, 2], [0, 1, 2], "of the shape [3] don't fit"),
    ],
    ids=["huge", "beyond", "negative", "column", "count"],
)
def test_sparse_weights_that_cannot_be(shape: list[int], indices: object, said: str) -> None:
    assert said in message(sparse(shape, indices))


# Values.


def _constant_model(operator: str, value: np.ndarray, *, as_node: bool) -> ModelProto:
    b = ModelBuilder()
    name = b.constant(value)
    model = b.model({"x": value.shape}, b.node(operator, "x", name, name="y"))
    if as_node:
        tensor = model.graph.initializer.pop()
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    return model


FLOATS = ["float16", "float32", "float64", "bfloat16"]


def _of_type(dtype: str, values: list[float]) -> np.ndarray:
    return np.array([values] * 2, "float32").astype(np.dtype(dtype))


@pytest.mark.parametrize("as_node", [False, True], ids=["weight", "constant"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_mask_of_minus_infinity_is_let_through(dtype: str, as_node: bool) -> None:
    mask = _of_type(dtype, [0.0, -np.inf])
    check_model(_constant_model("Add", mask, as_node=as_node), "m.onnx")


@pytest.mark.parametrize("as_node", [False, True], ids=["weight", "constant"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_infinity_in_a_trained_weight_is_refused(dtype: str, as_node: bool) -> None:
    weight = _of_type(dtype, [0.0, -np.inf])
    assert "contains infinity. Export" in message(_constant_model("MatMul", weight, as_node=as_node))


@pytest.mark.parametrize("as_node", [False, True], ids=["weight", "constant"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_refused_anywhere(dtype: str, as_node: bool) -> None:
    weight = _of_type(dtype, [0.0, np.nan])
    assert "contains NaN. Export" in message(_constant_model("Add", weight, as_node=as_node))


def test_a_weight_beyond_float32_is_infinite() -> None:
    assert "contains infinity" in message(_constant_model("MatMul", np.full((2, 2), 1e300), as_node=False))


def test_what_nothing_reads_may_hold_anything() -> None:
    model = plain()
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan]), "left"))
    check_model(model, "m.onnx")
