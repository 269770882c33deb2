"""Imported operators compute what the ONNX standard defines, for all attributes.

They are compared with ONNX's reference implementation, or with ONNX Runtime where that lacks an operator.

All nodes of a family are one model, which is compiled once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.compiler.execute import Executor
from pipeline.errors import ModelError
from pipeline.importer import import_proto
from tests.models import ModelBuilder, run_exactly, run_onnx

Array = npt.NDArray[Any]

OPSET = 20


@dataclass(frozen=True)
class Node:
    """A node under test.

    Attributes:
        name: the test's name.
        op_type: the ONNX operator.
        inputs: names of the model's inputs, constants, and None for missing optional inputs.
        attributes: the node's attributes.
        results: number of its outputs.
    """

    name: str
    op_type: str
    inputs: Sequence[str | Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1


def model_of(nodes: Sequence[Node], feeds: Mapping[str, Array]) -> onnx.ModelProto:
    weights, protos, outputs = [], [], []
    used = {i for n in nodes for i in n.inputs if isinstance(i, str)}
    for node in nodes:
        names = []
        for k, value in enumerate(node.inputs):
            if isinstance(value, np.ndarray | np.generic):
                weights.append(numpy_helper.from_array(np.asarray(value), f"{node.name}.{k}"))
                names.append(weights[-1].name)
            else:
                names.append(value or "")
        results = [f"{node.name}:{k}" for k in range(node.results)]
        outputs += results
        protos.append(helper.make_node(node.op_type, names, results, node.name, **node.attributes))
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
        if n in used
    ]
    graph = helper.make_graph(protos, "nodes", inputs, [onnx.ValueInfoProto(name=n) for n in outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    typed = onnx.shape_inference.infer_shapes(model)
    return typed


def expected(node: Node, feeds: Mapping[str, Array]) -> list[Array]:
    model = model_of([node], feeds)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        given = {v.name: feeds[v.name] for v in model.graph.input}
        if node.name in LEFT_TO_RUNTIME or node.op_type in LEFT_TO_RUNTIME:
            return [np.asarray(v) for v in run_onnx(model, given)]
        return [np.asarray(v) for v in ReferenceEvaluator(model).run(None, given)]


LEFT_TO_RUNTIME = frozenset(
    {"axes-negative", "crop", "cubic-pytorch_half_pixel-sizes", "elements", "elements-columns", "fmod-ints"}
    | {
        "GlobalLpPool",
        "MaxPool-same-lower",
        "MaxPool-same-lower-image",
        "LRN",
        "OneHot",
        "lp1",
        "AveragePool-signal-ceil",
    }
)
"""What the reference implementation can't do or gets wrong; ONNX Runtime is the oracle for these."""


def run(nodes: Sequence[Node], feeds: Mapping[str, Array]) -> dict[str, Array]:
    program = import_proto(model_of(nodes, feeds), {}, "nodes", "0" * 64)
    return Executor(program).run(feeds)


def check(node: Node, actual: Mapping[str, Array], feeds: Mapping[str, Array]) -> None:
    for k, wanted in enumerate(expected(node, feeds)):
        found = actual[f"{node.name}:{k}"]
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, wanted)


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def f32(*values: float) -> Array:
    return np.array(values, "float32")


def i64(*values: int) -> Array:
    return np.array(values, "int64")


IMAGES: Mapping[str, Array] = {
    "image": floats(1, 3, 7, 9),
    "last": floats(1, 7, 9, 3),
    "signal": floats(2, 3, 11),
    "volume": floats(1, 2, 4, 5, 6),
    "bytes": np.random.default_rng(1).integers(0, 256, (1, 2, 6, 7)).astype("uint8"),
    "matrix": floats(6, 8),
}


def _resizes() -> list[Node]:
    modes = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    found = []
    for coordinates in modes:
        common = {"coordinate_transformation_mode": coordinates}
        for mode in ("nearest", "linear", "cubic"):
            scales = f32(1, 1, 2, 1) if coordinates == "align_corners" else f32(1, 1, 1.7, 0.6)
            found.append(
                Node(f"{mode}-{coordinates}-scales", "Resize", ["image", None, scales], common | {"mode": mode})
            )
            sizes = i64(1, 3, 1, 20)
            attributes = common | {"mode": mode}
            found.append(Node(f"{mode}-{coordinates}-sizes", "Resize", ["image", None, None, sizes], attributes))
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for coordinates in ("half_pixel", "asymmetric"):
            attributes = {"nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
            halves = Node(f"{rounding}-{coordinates}", "Resize", ["bytes", None, f32(1, 1, 0.5, 3)], attributes)
            found.append(halves)
    for mode in ("linear", "cubic"):
        for name, scales in (("smaller", f32(1, 1, 0.6, 0.3)), ("mixed", f32(1, 1, 2.3, 0.45))):
            antialias = {"mode": mode, "antialias": 1}
            found.append(Node(f"antialias-{mode}-{name}", "Resize", ["image", None, scales], antialias))
    found += [
        Node("excluded", "Resize", ["image", None, f32(1, 1, 1.3, 0.7)], {"mode": "cubic", "exclude_outside": 1}),
        Node("coefficient", "Resize", ["image", None, f32(1, 1, 1.3, 0.7)], {"mode": "cubic", "cubic_coeff_a": -0.5}),
        Node("axes", "Resize", ["image", None, f32(2, 1.5)], {"mode": "linear", "axes": [3, 2]}),
        Node("axes-negative", "Resize", ["image", None, None, i64(5, 4)], {"mode": "nearest", "axes": [-1, -2]}),
        Node("channels-last", "Resize", ["last", None, f32(1, 2, 2, 1)], {"mode": "nearest"}),
        Node("channels-last-linear", "Resize", ["last", None, f32(1, 1.5, 2.5, 1)], {"mode": "linear"}),
        Node("all-axes", "Resize", ["image", None, f32(2, 2, 2, 2)], {"mode": "linear"}),
        Node("channels", "Resize", ["image", None, f32(1, 2, 1, 1)], {"mode": "nearest"}),
        Node("signal", "Resize", ["signal", None, f32(1, 1, 1.6)], {"mode": "linear"}),
        Node("signal-nearest", "Resize", ["signal", None, f32(1, 1, 1.6)], {"mode": "nearest"}),
        Node("volume", "Resize", ["volume", None, f32(1, 1, 1.5, 0.5, 2)], {"mode": "linear"}),
        Node("volume-nearest", "Resize", ["volume", None, f32(1, 1, 1.5, 0.5, 2)], {"mode": "nearest"}),
        Node("matrix", "Resize", ["matrix", None, f32(0.5, 2)], {"mode": "cubic"}),
        Node("bytes-linear", "Resize", ["bytes", None, f32(1, 1, 2, 0.5)], {"mode": "linear"}),
        Node("bytes-cubic", "Resize", ["bytes", None, f32(1, 1, 4, 1)], {"mode": "cubic"}),
    ]
    for policy in ("not_larger", "not_smaller"):
        attributes = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
        found.append(Node(policy, "Resize", ["image", None, None, i64(10, 6)], attributes))
    for mode in ("nearest", "linear", "cubic"):
        region = f32(0, 0, 0.3, -0.2, 1, 1, 0.8, 1.1)
        attributes = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
        found.append(Node(f"crop-{mode}", "Resize", ["image", region, None, i64(1, 3, 4, 5)], attributes))
    return found


def _pools() -> list[Node]:
    def pool(name: str, op_type: str, x: str, kernel: list[int], results: int = 1, **attributes: Any) -> Node:
        return Node(f"{op_type}-{name}", op_type, [x], {"kernel_shape": kernel, **attributes}, results)

    found = []
    for op_type in ("MaxPool", "AveragePool"):
        found += [
            pool("image", op_type, "image", [3, 2], strides=[2, 2], pads=[1, 0, 0, 1]),
            pool("ceil", op_type, "image", [3, 3], strides=[2, 2], ceil_mode=1),
            pool("ceil-pads", op_type, "image", [3, 2], strides=[3, 2], pads=[1, 1, 1, 0], ceil_mode=1),
            pool("dilated", op_type, "image", [2, 3], dilations=[3, 2], pads=[1, 2, 1, 2]),
            pool("signal", op_type, "signal", [3], strides=[2], pads=[1, 0]),
            pool("signal-ceil", op_type, "signal", [4], strides=[3], ceil_mode=1),
            pool("same-upper", op_type, "signal", [4], strides=[2], auto_pad="SAME_UPPER"),
            pool("same-lower", op_type, "signal", [4], strides=[2], auto_pad="SAME_LOWER"),
            pool("same-lower-image", op_type, "image", [2, 4], strides=[2, 3], auto_pad="SAME_LOWER"),
            pool("volume", op_type, "volume", [2, 3, 2], strides=[2, 2, 2], pads=[0, 1, 0, 1, 0, 1]),
            pool("volume-ceil", op_type, "volume", [2, 2, 3], strides=[3, 2, 2], ceil_mode=1),
        ]
    for name, attributes in (
        ("image", {"pads": [1, 0, 0, 1]}),
        ("ceil", {"pads": [1, 1, 1, 1], "strides": [2, 3], "ceil_mode": 1}),
    ):
        found.append(pool(f"counted-{name}", "AveragePool", "image", [3, 3], count_include_pad=1, **attributes))
    found += [
        pool("bytes", "MaxPool", "bytes", [3, 3], pads=[1, 1, 1, 1]),
        pool("places", "MaxPool", "image", [3, 2], 2, strides=[2, 1], pads=[1, 0, 1, 1]),
        pool("places-signal", "MaxPool", "signal", [3], 2, strides=[2]),
        pool("lp1", "LpPool", "image", [2, 3], p=1, strides=[2, 2]),
        pool("lp2", "LpPool", "image", [2, 3], pads=[1, 1, 0, 1]),
        pool("lp3", "LpPool", "signal", [3], p=3),
        Node("global", "GlobalLpPool", ["image"], {"p": 3}),
    ]
    return found


TABLES: Mapping[str, Array] = {
    "x": (floats(4, 6, seed=2) * 8),
    "odd": f32(np.inf, -np.inf, np.nan, 0, -0.0, 1.5, -2.5, 3.5, 5, -7, 0.5, 2.5),
    "endless": np.array([[-np.inf, -np.inf], [np.inf, 1], [np.inf, -np.inf]], "float32"),
    "image4": floats(1, 3, 4, 6),
    "many": floats(2, 5, 4, seed=3).round(0),
    "channels": floats(1, 6, 2, 3, seed=4),
    "ints": np.array([[-7, 7, -6, 6], [5, -5, 0, 1]], "int32"),
    "longs": np.array([[-7, 7, -6, 6], [5, -5, 0, 1]], "int64"),
    "small": np.array([1, 2, 250, 7], "uint8"),
    "shifts": np.array([0, 1, 8, 40], "uint8"),
    "index": np.array([[0, -1, 2, -4], [3, 1, -2, 0]], "int64"),
    "flags": np.array([[True, False, True], [False, False, False]]),
}


def _numbers() -> list[Node]:
    nodes = [
        Node("mod-float", "Mod", ["x", f32(3)], {"fmod": 1}),
        Node("mod-negative", "Mod", ["ints", np.int32(4)]),
        Node("mod-negative-divisor", "Mod", ["ints", np.int32(-4)]),
        Node("fmod-ints", "Mod", ["ints", np.int32(4)], {"fmod": 1}),
        Node("mod-endless", "Mod", ["odd", f32(np.inf)], {"fmod": 1}),
        Node("divide-ints", "Div", ["longs", np.int64(3)]),
        Node("divide-negative", "Div", ["ints", np.int32(-4)]),
        Node("round", "Round", ["odd"]),
        Node("infinite", "IsInf", ["odd"]),
        Node("infinite-positive", "IsInf", ["odd"], {"detect_negative": 0}),
        Node("infinite-negative", "IsInf", ["odd"], {"detect_positive": 0}),
        Node("infinite-none", "IsInf", ["odd"], {"detect_positive": 0, "detect_negative": 0}),
        Node("nan", "IsNaN", ["odd"]),
        Node("power-int", "Pow", ["x", np.int64(3)]),
        Node("power-ints", "Pow", ["ints", np.int32(3)]),
        Node("power-long-float", "Pow", ["longs", f32(2)]),
        Node("left", "BitShift", ["small", "shifts"], {"direction": "LEFT"}),
        Node("right", "BitShift", ["small", "shifts"], {"direction": "RIGHT"}),
        Node("clip-ints", "Clip", ["ints", np.int32(-5), np.int32(5)]),
        Node("clip-swapped", "Clip", ["x", np.float32(4), np.float32(-4)]),
        Node("clip-open", "Clip", ["x", None, np.float32(2)]),
        Node("cast-down", "Cast", ["x"], {"to": onnx.TensorProto.INT32}),
        Node("cast-byte", "Cast", ["longs"], {"to": onnx.TensorProto.INT8}),
        Node("cast-bool", "Cast", ["odd"], {"to": onnx.TensorProto.BOOL}),
        Node("cast-flags", "Cast", ["flags"], {"to": onnx.TensorProto.FLOAT}),
        Node("softplus", "Softplus", ["large"]),
        Node("elu", "Elu", ["large"], {"alpha": 0.7}),
        Node("max", "Max", ["x", np.float32(1), floats(4, 1)]),
        Node("mean", "Mean", ["x", floats(4, 1), floats(6)]),
        Node("prelu", "PRelu", ["x", floats(6)]),
        Node("prelu-all", "PRelu", ["x", floats(4, 6, seed=9)]),
        Node("upper", "Trilu", ["x", np.int64(1)], {"upper": 1}),
        Node("lower", "Trilu", ["longs", np.int64(-1)], {"upper": 0}),
        Node("eye", "EyeLike", ["ints"], {"k": 1, "dtype": onnx.TensorProto.FLOAT}),
        Node("lp1", "LpNormalization", ["many"], {"p": 1, "axis": 1}),
        Node("lp2", "LpNormalization", ["x"]),
        Node("lrn", "LRN", ["channels"], {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 2.0}),
        Node("max-endless", "ReduceMax", ["endless", i64(1)]),
        Node("min-endless", "ReduceMin", ["endless", i64(0)], {"keepdims": 0}),
        Node("depth", "SpaceToDepth", ["image4"], {"blocksize": 2}),
        Node("tile", "Tile", ["many", i64(2, 1, 3)]),
        Node("hardmax", "Hardmax", ["many"], {"axis": 1}),
    ]
    for op_type in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceLogSumExp", "ReduceL2"):
        nodes += [
            Node(f"{op_type}-axis", op_type, ["many", i64(-1)], {"keepdims": 0}),
            Node(f"{op_type}-all", op_type, ["many"]),
            Node(f"{op_type}-none", op_type, ["many", i64()], {"noop_with_empty_axes": 1}),
        ]
    return nodes


def _choices() -> list[Node]:
    update, add = {"axis": 1}, {"axis": 1, "reduction": "add"}
    nodes = [
        Node("gather", "Gather", ["x", "index"], {"axis": 0}),
        Node("gather-constant", "Gather", ["x", np.int64(-2)], {"axis": 1}),
        Node("elements", "GatherElements", ["x", "index"], {"axis": 0}),
        Node("elements-columns", "GatherElements", ["x", "index"], {"axis": 1}),
        Node("places", "GatherND", ["many", np.array([[0, -1], [1, 2]], "int64")]),
        Node("places-batch", "GatherND", ["many", np.array([[-1], [2]], "int64")], {"batch_dims": 1}),
        Node("scatter", "ScatterElements", ["x", i64(-1, 2)[:, None], floats(2, 1)], update),
        Node("scatter-add", "ScatterElements", ["x", i64(-1, 2, 2)[None], floats(1, 3)], add),
        Node("scatter-nd", "ScatterND", ["x", np.array([[-1, 2], [0, -3]], "int64"), floats(2)]),
        Node("scatter-max", "ScatterND", ["x", i64(1, 1)[:, None], floats(2, 6)], {"reduction": "max"}),
        Node("hot", "OneHot", ["index", i64(4), f32(-1, 5)]),
        Node("hot-first", "OneHot", ["index", i64(4), i64(2, 3)], {"axis": 0}),
        Node("sum", "CumSum", ["many", np.int64(1)]),
        Node("sum-exclusive", "CumSum", ["many", np.int64(-1)], {"exclusive": 1}),
        Node("sum-reverse", "CumSum", ["many", np.int64(1)], {"reverse": 1}),
        Node("sum-both", "CumSum", ["many", np.int64(0)], {"reverse": 1, "exclusive": 1}),
        Node("wrap", "Pad", ["many", i64(0, 2, 1, 0, 1, 3)], {"mode": "wrap"}),
        Node("reflect", "Pad", ["many", i64(1, 2, 3, 0, 1, 0)], {"mode": "reflect"}),
        Node("edge", "Pad", ["many", i64(2, 1), None, i64(-2)], {"mode": "edge"}),
        Node("crop", "Pad", ["many", i64(0, -1, 2, 0, 1, -1), np.float32(3)]),
        Node("pad-ints", "Pad", ["ints", i64(1, 0, 0, 2), np.int32(-4)]),
    ]
    for axis in (0, 1, -1):
        for largest in (0, 1):
            attributes = {"axis": axis, "largest": largest}
            nodes.append(Node(f"top-{axis}-{largest}", "TopK", ["many", i64(2)], attributes, 2))
    for op_type in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            attributes = {"axis": -2, "keepdims": last, "select_last_index": last}
            nodes.append(Node(f"{op_type}-{last}", op_type, ["many"], attributes))
    return nodes


FEEDS: Mapping[str, Array] = {**IMAGES, **TABLES, "large": f32(-1000, -20, -1, 0, 1, 20, 1000)}
FAMILIES = {"resize": _resizes(), "pool": _pools(), "numbers": _numbers(), "choices": _choices()}


@cache
def results(family: str) -> Mapping[str, Array]:
    return run(FAMILIES[family], FEEDS)


@pytest.mark.parametrize(
    ("family", "node"), [(f, n) for f, nodes in FAMILIES.items() for n in nodes], ids=lambda v: getattr(v, "name", v)
)
def test_a_node_computes_what_the_standard_says(family: str, node: Node) -> None:
    check(node, results(family), FEEDS)


REGIONS = {
    "image": floats(2, 3, 10, 12),
    "regions": np.array([[1, 2, 6.5, 7], [0, 0, 11, 9], [3, 3, 3.2, 3.1], [-4, 1, 3, 14]], "float32"),
    "images": i64(0, 1, 1, 0),
}


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("samples", [0, 2])
def test_regions_are_sampled_as_the_standard_says(mode: str, transform: str, samples: int) -> None:
    attributes = {"mode": mode, "coordinate_transformation_mode": transform, "sampling_ratio": samples}
    sizes = {"output_height": 3, "output_width": 2, "spatial_scale": 0.8}
    node = Node("regions", "RoiAlign", ["image", "regions", "images"], attributes | sizes)
    check(node, run([node], REGIONS), REGIONS)


@pytest.mark.parametrize("op_type", ["Div", "Mod"])
def test_division_of_integers_by_zero_is_refused(op_type: str) -> None:
    with pytest.raises(ModelError, match="divides integers by zero"):
        run([Node("quotient", op_type, ["whole", i64(2, 0)])], {"whole": i64(3, 4)})


@pytest.mark.parametrize(
    ("attributes", "said"),
    [({"output_height": 0}, "must be at least 1"), ({"sampling_ratio": 10**6}, "at most 256 is supported")],
)
def test_regions_that_cannot_be_sampled_are_refused(attributes: dict[str, int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        run([Node("regions", "RoiAlign", ["image", "regions", "images"], attributes)], REGIONS)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [i64(2, 3, 4, 5), i64(1, 3, 4, 5), i64(2, 3, 2, 4, 5)], ids=str)
def test_places_are_transformed_as_the_standard_says(corners: int, size: Array) -> None:
    axes = len(size) - 2
    node = Node("grid", "AffineGrid", ["transforms", size], {"align_corners": corners})
    feeds = {"transforms": floats(int(size[0]), axes, axes + 1)}
    check(node, run([node], feeds), feeds)


def test_nearest_pixels_by_halves_as_set_11_had_them() -> None:
    b = ModelBuilder(opset=11)
    region, scales = b.constant(f32()), b.constant(f32(1, 1, 2, 1.5))
    b.node("Resize", "x", region, scales, name="y", coordinate_transformation_mode="tf_half_pixel_for_nn")
    model, feeds = b.model({"x": [1, 2, 3, 4]}, "y"), {"x": floats(1, 2, 3, 4)}
    (expected,) = run_exactly(model, feeds)
    actual = Executor(import_proto(model, {}, "resize", "0" * 64)).run(feeds)
    np.testing.assert_array_equal(actual["y"], expected)


REFUSED = [
    Node("boxes", "NonMaxSuppression", [floats(1, 4, 4), "scores", i64(3), f32(0.5), f32(0.1)]),
    Node("out-of-range", "Gather", ["scores", i64(7)], {"axis": 2}),
    Node("too-many", "TopK", ["scores", i64(9)], {}, 2),
    Node("window", "Conv", ["scores", floats(1, 1, 6)]),
    Node("pool", "MaxPool", ["scores"], {"kernel_shape": [6]}),
    Node("corners", "Resize", ["scores", None, f32(1, 1, 1.6)], {"coordinate_transformation_mode": "align_corners"}),
]


@pytest.mark.parametrize("node", REFUSED, ids=lambda n: n.name)
def test_what_cannot_be_imported_is_refused(node: Node) -> None:
    with pytest.raises(ModelError):
        run([node], {"scores": floats(1, 1, 4)})
