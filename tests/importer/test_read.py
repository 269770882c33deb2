"""A model file that can't be used is refused with one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError, OptionError
from pipeline.importer import import_model
from pipeline.importer.read import external, read_model
from pipeline.importer.read.check.contents import stored_tensors
from pipeline.reference import execute
from pipeline.workflow import verify
from tests.models import ModelBuilder, import_test_model, run_onnx, small_network


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read: No such file"):
        import_model(tmp_path / "none.onnx")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="isn't a file"):
        import_model(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"not a model at all", "isn't an ONNX"), (b"\x08\x08", "isn't an ONNX model")],
    ids=["empty", "text", "no_graph"],
)
def test_files_that_are_no_models(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        import_model(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    data = small_network().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"truncated|no outputs"):
        import_model(path)


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    b = ModelBuilder()
    weight = np.ones((2, 3), "float32")
    weight[0, 0] = np.nan
    path = tmp_path / "m.onnx"
    onnx.save(b.model({"x": (1, 3)}, b.node("Gemm", "x", b.constant(weight), transB=1)), path)
    with pytest.raises(ModelError, match="weight 'w0' contains NaN"):
        import_model(path)


def _external(tmp_path: Path, location: str, **entries: str) -> Path:
    """Write a model whose only weight, float32 of the shape [3, 2], is declared as stored in another file."""
    b = ModelBuilder()
    model = b.model({"x": (1, 3)}, b.node("Gemm", "x", b.constant(np.ones((3, 2), "float32"))))
    _move(model.graph.initializer[0], location, **entries)
    return _written(tmp_path, model)


def _move(tensor: TensorProto, location: str, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


def _written(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "missing.bin", "", ".", "a\0b", "a" * 5000])
def test_external_weights_outside_the_models_folder_are_not_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    with pytest.raises(ModelError, match="isn't a file below the model's folder"):
        import_model(_external(tmp_path, location))


def test_a_link_out_of_the_models_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    path = _external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="isn't a file below the model's folder"):
        import_model(path)


def test_external_weights_are_read_and_count_for_the_digest(tmp_path: Path) -> None:
    path = _external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(np.ones(6, "float32").tobytes())
    before = import_model(path).source_sha256
    (path.parent / "weights.bin").write_bytes(np.zeros(6, "float32").tobytes())
    assert import_model(path).source_sha256 != before


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "-1"}, "weight 'w0' has the offset '-1' in its external data; expected a number of bytes"),
        ({"offset": "1e3"}, "has the offset '1e3'"),
        ({"offset": "9" * 5000}, "has the offset '999"),
        ({"offset": "8"}, r"takes 24 bytes from byte 8 of 'weights.bin', which has 24. That file is truncated"),
        ({"offset": "9" * 19}, "which has 24"),
        ({"length": ""}, "has the length ''"),
        ({"length": "-24"}, "has the length '-24'"),
        (
            {"length": "23"},
            r"has the shape \[3, 2\], which takes 24 bytes, but its external data in 'weights.bin' has 23",
        ),
        ({"length": "1099511627776"}, "has 1099511627776"),
        ({"ofset": "8"}, "has the key 'ofset', which isn't known. Known: basepath, checksum, length"),
    ],
    ids=lambda value: "-".join(f"{k}_{v[:12]}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_external_weights_that_are_described_wrongly(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    path = _external(tmp_path, "weights.bin", **entries)
    (path.parent / "weights.bin").write_bytes(bytes(24))
    with pytest.raises(ModelError, match=message):
        import_model(path)


def test_an_external_weight_described_twice(tmp_path: Path) -> None:
    path = _external(tmp_path, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="other.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="has the key 'location' twice"):
        import_model(path)


def test_weights_that_lie_within_a_larger_file(tmp_path: Path) -> None:
    path = _external(tmp_path, "weights.bin", offset="8", length="24")
    values = np.arange(10, dtype="float32")
    (path.parent / "weights.bin").write_bytes(values.tobytes())
    model, _ = read_model(path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), values[2:8].reshape(3, 2))


def test_a_file_that_holds_many_weights_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "MAX_EXTERNAL_BYTES", 24)
    path = _external(tmp_path, "weights.bin", offset="0")
    (path.parent / "weights.bin").write_bytes(bytes(1000))
    read_model(path)
    monkeypatch.setattr(external, "MAX_EXTERNAL_BYTES", 23)
    with pytest.raises(ModelError, match="its external weights take more than 23 bytes"):
        read_model(path)


def test_external_data_is_read_in_nodes_and_branches_and_functions_as_well(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(2, "float32"), "t")
    _move(tensor, "weights.bin")
    floats = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    branch = helper.make_graph([helper.make_node("Abs", ["t"], ["b"])], "inner", [], [floats], [tensor])
    nodes = [
        constant,
        helper.make_node("If", ["x"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("F", ["c"], ["f"], domain="ours"),
        helper.make_node("Sum", ["c", "i", "f"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    body = [helper.make_node("Constant", [], ["k"], value=tensor), helper.make_node("Add", ["a", "k"], ["s"])]
    function = helper.make_function("ours", "F", ["a"], ["s"], body, opsets)
    inputs = [helper.make_tensor_value_info("x", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    path = _written(tmp_path, helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9))
    (path.parent / "weights.bin").write_bytes(np.array([3, 4], "float32").tobytes())
    found = [numpy_helper.to_array(t).tolist() for t, _ in stored_tensors(read_model(path)[0])]
    assert found == [[3, 4]] * 4


def test_a_model_whose_nodes_are_out_of_order_is_the_same_model(tmp_path: Path) -> None:
    expected = small_network()
    shuffled = small_network()
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(reversed(expected.graph.node))
    model, _ = read_model(_written(tmp_path, shuffled))
    x = np.random.default_rng(0).standard_normal((1, 3, 12, 12), "float32")
    np.testing.assert_array_equal(run_onnx(model, {"x": x})[0], run_onnx(expected, {"x": x})[0])


def test_all_operators_that_cannot_be_imported_are_named() -> None:
    b = ModelBuilder()
    y = b.node("StringNormalizer", b.node("Custom", b.node("Relu", "x"), domain="ours", name="a"), name="b")
    with pytest.raises(ModelError) as caught:
        import_test_model(b.model({"x": (1, 3)}, y))
    message = str(caught.value)
    assert "Custom 'a'" in message
    assert "'ours'" in message
    assert "StringNormalizer 'b'" in message
    assert "operator set 17" in message


def test_all_attributes_that_cannot_be_imported_are_named() -> None:
    b = ModelBuilder()
    weight = b.constant(np.ones((3, 3, 3, 3, 3, 3), "float32"))
    first = b.node("Conv", "x", weight, name="first")
    second = b.node("Conv", "x", weight, name="second")
    model = b.model({"x": (1, 3, 5, 5, 5, 5)}, first, second)
    with pytest.raises(ModelError) as caught:
        import_test_model(model)
    assert "Conv 'first'" in str(caught.value)


def test_a_shape_that_depends_on_the_data_is_refused() -> None:
    b = ModelBuilder()
    y = b.node("Cast", b.node("NonZero", b.node("Relu", "x")), to=TensorProto.FLOAT)
    with pytest.raises(ModelError, match=r"the shape of tensor 't\d' depends on the data"):
        import_test_model(b.model({"x": (1, 3)}, y))


def model_for_two_rates() -> onnx.ModelProto:
    """Return a model with two networks, of which it takes one by its input `rate`: x -> 2x if that is 8000, else 3x."""
    b = ModelBuilder()
    branches = {}
    for name, factor in (("then_branch", 2), ("else_branch", 3)):
        nodes = [
            onnx.helper.make_node("Constant", [], [f"{name}_factor"], value_float=float(factor)),
            onnx.helper.make_node("Mul", ["x", f"{name}_factor"], [name]),
        ]
        output = onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])
        branches[name] = onnx.helper.make_graph(nodes, name, [], [output])
    condition = b.node("Equal", "rate", b.constant(np.int64(8000)))
    model = b.model({"x": (1, 3), "rate": ()}, b.node("If", condition, name="y", **branches))
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    return model


@pytest.mark.parametrize(("rate", "factor"), [(8000, 2), (16000, 3)])
def test_an_input_that_is_fixed_is_a_constant(tmp_path: Path, rate: int, factor: int) -> None:
    path = tmp_path / "rates.onnx"
    onnx.save(model_for_two_rates(), path)
    program = import_model(path, fixed={"rate": rate})
    assert [i.name for i in program.inputs] == ["x"]
    x = np.arange(3, dtype="float32")[None]
    np.testing.assert_array_equal(execute(program, {"x": x})["y"], factor * x)
    check = verify(path, program)
    assert check.largest_error is not None
    assert check.largest_error < 1e-6


def test_a_model_with_an_input_fixed_is_another_model(tmp_path: Path) -> None:
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, 3), "scale": (1, 3)}, b.node("Mul", "x", "scale", name="y")), tmp_path / "m.onnx")
    known = [import_model(tmp_path / "m.onnx", fixed=fixed).source_sha256 for fixed in ({}, {"scale": 1}, {"scale": 2})]
    assert len(set(known)) == 3
    assert known[0] == import_model(tmp_path / "m.onnx").source_sha256


@pytest.mark.parametrize("rate", [8000, 16000])
def test_branches_whose_results_are_alike_are_both_computed(tmp_path: Path, rate: int) -> None:
    onnx.save(model_for_two_rates(), tmp_path / "rates.onnx")
    program = import_model(tmp_path / "rates.onnx")
    feeds = {"x": np.arange(3, dtype="float32")[None], "rate": np.array(rate)}
    np.testing.assert_array_equal(execute(program, feeds)["y"], run_onnx(model_for_two_rates(), feeds)[0])


def choice(then: list[onnx.NodeProto], other: list[onnx.NodeProto], dtype: int) -> onnx.ModelProto:
    """Return a model that takes one of two lists of nodes, which read x: [1,3] and write `then` and `other`."""
    b = ModelBuilder()
    results = [onnx.helper.make_tensor_value_info(name, dtype, None) for name in ("then", "other")]
    graphs = [onnx.helper.make_graph(n, o.name, [], [o]) for n, o in zip((then, other), results, strict=True)]
    condition = b.node("Cast", b.node("ReduceSum", "x", keepdims=0), to=TensorProto.BOOL)
    model = b.model({"x": (1, 3)}, b.node("If", condition, name="y", then_branch=graphs[0], else_branch=graphs[1]))
    model.graph.input[0].type.tensor_type.elem_type = dtype
    model.graph.output[0].type.tensor_type.elem_type = dtype
    return model


@pytest.mark.parametrize(("operator", "expected"), [("Div", [[-1, 0, 1]]), ("Mod", [[5, 0, 2]])])
def test_a_branch_may_divide_integers_by_a_number(operator: str, expected: list[list[int]]) -> None:
    seven = helper.make_node("Constant", [], ["seven"], value_ints=[7])
    then, division = helper.make_node("Neg", ["x"], ["then"]), helper.make_node(operator, ["x", "seven"], ["other"])
    program = import_test_model(choice([then], [seven, division], TensorProto.INT64))
    # The condition is the sum.
    for x, y in (([[-9, 0, 9]], expected), ([[1, 2, 3]], [[-1, -2, -3]])):
        np.testing.assert_array_equal(execute(program, {"x": np.array(x)})["y"], y)


@pytest.mark.parametrize(
    ("then", "other", "dtype"),
    [
        (["Relu", "x"], ["ReduceSum", "x"], TensorProto.FLOAT),
        (["Relu", "x"], ["Reshape", "x", "seven"], TensorProto.FLOAT),
        (["Identity", "x"], ["Div", "x", "x"], TensorProto.INT64),
        (["Identity", "x"], ["Mod", "x", "x"], TensorProto.INT64),
    ],
    ids=["other shapes", "not for this shape", "division by zero", "remainder of a division by zero"],
)
def test_other_branches_are_refused(then: list[str], other: list[str], dtype: int) -> None:
    seven = onnx.helper.make_node("Constant", [], ["seven"], value_ints=[7])
    first, second = (helper.make_node(op, [*reads], [o]) for (op, *reads), o in ((then, "then"), (other, "other")))
    with pytest.raises(ModelError, match=r"If 'y': which branch is taken depends on the data; .*fix it: --fix NAME=VA"):
        import_test_model(choice([first], [seven, second], dtype))


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"rat": 1}, "Unknown input in the values to fix 'rat'.*Did you mean 'rate'"),
        ({"rate": 0.5}, "Input 'rate' can't be fixed to 0.5: it is of int64"),
        ({"rate": 1e30}, "can't be fixed"),
        ({"rate": float("nan")}, "can't be fixed"),
        ({"x": float("nan")}, "can't be fixed to nan: it is of float"),
        ({"x": 1e300}, "can't be fixed to 1e.300"),
        ({"x": 1, "rate": 1}, "All inputs are fixed"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, fixed: dict[str, float], message: str) -> None:
    path = tmp_path / "rates.onnx"
    onnx.save(model_for_two_rates(), path)
    with pytest.raises((OptionError, ModelError), match=message):
        import_model(path, fixed=fixed)


def test_a_fixed_input_has_the_shape_given_or_a_batch_of_one(tmp_path: Path) -> None:
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, 3), "scale": ("batch", 3)}, b.node("Mul", "x", "scale", name="y")), tmp_path / "m.onnx")
    assert import_model(tmp_path / "m.onnx", fixed={"scale": 2}).outputs[0].shape == (1, 3)
    assert import_model(tmp_path / "m.onnx", {"scale": (4, 3)}, fixed={"scale": 2}).outputs[0].shape == (4, 3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 3)}, "Unknown input.*Did you mean|Unknown input"),
        ({"x": (1, 4, 6, 4)}, "contradicts the model"),
        ({"x": (1, 3)}, "contradicts the model"),
        ({"x": (1, 3, 0, 4)}, r"Shape \(1, 3, 0, 4\) for input 'x' has no elements"),
        ({}, r"dimension 2 isn't known. Give it, for example --shape x=1,3,224,4"),
    ],
    ids=["name", "size", "rank", "empty", "open"],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    b = ModelBuilder()
    with pytest.raises(OptionError, match=message):
        import_test_model(b.model({"x": ("batch", 3, "height", 4)}, b.node("Relu", "x")), **shapes)


def test_an_input_without_a_shape_needs_one() -> None:
    b = ModelBuilder()
    model = b.model({"x": (1, 3)}, b.node("Relu", "x"))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(OptionError, match=r"doesn't say how many dimensions input 'x' has. Give its shape"):
        import_test_model(model)
    assert import_test_model(model, x=(2, 5)).inputs[0].shape == (2, 5)


def test_a_shape_that_no_memory_holds() -> None:
    b = ModelBuilder()
    with pytest.raises(ModelError, match=r"Tensor 'x' has the shape \[1, 3, 1048576, 1048576\] and takes \d+ bytes"):
        import_test_model(b.model({"x": (1, 3, "h", "w")}, b.node("Relu", "x")), x=(1, 3, 2**20, 2**20))


def test_a_model_in_memory_is_checked_as_one_in_a_file_is() -> None:
    b = ModelBuilder()
    with pytest.raises(ModelError, match="Model test: Relu 't0' reads the tensor 'nowhere', which nothing computes"):
        import_test_model(b.model({"x": (1, 3)}, b.node("Relu", "nowhere")))


def test_attributes_whose_value_is_not_written_are_zero_or_empty() -> None:
    b = ModelBuilder()
    y = b.node("LeakyRelu", b.node("Reshape", "x", b.constant(np.zeros(0, "int64"))))
    model = b.model({"x": (1,)}, b.node("Transpose", y, name="y"))
    model.graph.node[1].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    model.graph.node[2].attribute.add(name="perm", type=onnx.AttributeProto.INTS)
    assert execute(import_test_model(model), {"x": np.array([-3], "float32")})["y"] == 0


def test_functions_of_one_name_are_told_apart_by_their_overload() -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    functions = [
        helper.make_function("ours", "F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], opsets, overload=op)
        for op in ("Neg", "Abs")
    ]
    calls = [
        helper.make_node("F", ["x"], ["t"], domain="ours", overload="Abs"),
        helper.make_node("F", ["t"], ["y"], domain="ours", overload="Neg"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy"]
    graph = helper.make_graph(calls, "g", values[:1], values[1:])
    # The graph itself uses no operators of ONNX's own.
    model = helper.make_model(graph, opset_imports=opsets[1:], functions=functions, ir_version=10)
    program = import_test_model(model)
    x = np.array([[-1, 0, 2]], "float32")
    np.testing.assert_array_equal(execute(program, {"x": x})["y"], [[-1, 0, -2]])


def test_the_model_given_is_not_changed() -> None:
    model = small_network()
    before = model.SerializeToString()
    import_test_model(model)
    assert model.SerializeToString() == before
    assert numpy_helper.to_array(model.graph.initializer[0]).dtype == np.float32


def test_a_file_whose_name_is_not_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/net\xff.onnx"))
    onnx.save(small_network(), path)
    assert import_model(path).name == "net\N{REPLACEMENT CHARACTER}"
