"""How each operator of float programs is written as nodes of ONNX.

A converter gets the graph, whose `binding` is the operator, and returns the name of its result. Images may come out
channels first, as ONNX has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from onnx import helper
from tvm import relax

from pipeline import ops
from pipeline.exporter.graph import Convert, Graph, Written
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import constant
from pipeline.ops import relax_operators
from pipeline.ops.formula import Formula

Array = npt.NDArray[Any]
T = TypeVar("T", bound=ops.Operator)

_converters: dict[str, Convert] = {}

_LAST, _FIRST = (0, 1, 2, 3), (0, 2, 3, 1)
"""Where an image's axes N, H, W, C are: in programs, and with channels first."""

SIMPLE: dict[str, str] = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "divide": "Div",
    "equal": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "isinf": "IsInf",
    "isnan": "IsNaN",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "log": "Log",
    "logical_and": "And",
    "logical_not": "Not",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "negative": "Neg",
    "nn.relu": "Relu",
    "nn.softplus": "Softplus",
    "power": "Pow",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "subtract": "Sub",
    "tanh": "Tanh",
    "where": "Where",
}
"""Relax's functions of single values, broadcast as NumPy does, that ONNX has under another name."""


def convert(graph: Graph) -> Written | list[Written]:
    """Write the operator that is the graph's `binding`.

    Raises:
        ModelError: it has no form in ONNX yet.
    """
    name = graph.binding.operator
    if name not in _converters:
        raise graph.unsupported(f"there is no form of {name.removeprefix('relax.')} yet")
    return _converters[name](graph)


def _converts(*operators: str | type[ops.Operator]) -> Callable[[Convert], Convert]:
    """Register what writes operators: ours by class, Relax's by name, without `relax.`."""

    def add(function: Convert) -> Convert:
        names = (f"relax.{o}" if isinstance(o, str) else o.name for o in operators)
        _converters.update(dict.fromkeys(names, function))
        return function

    return add


def _described(graph: Graph, operator: type[T]) -> T:
    found = operator_of(graph.binding.value)
    if not isinstance(found, operator):
        raise TypeError(f"Expected {operator.name}, got {found}")
    return found


def _tensors(graph: Graph) -> list[relax.Expr]:
    return list(graph.binding.value.args)


def _shape(expr: relax.Expr) -> tuple[int, ...]:
    return tensor_type(expr).shape


def _clipped(graph: Graph, name: str, limits: ops.Clipped) -> str:
    """Write a fused activation."""
    low, high = limits.clip_min, None if graph.saturates() else limits.clip_max
    if low is None and high is None:
        return name
    if low == 0 and high is None:
        return graph.node("Relu", name)
    bounds = ["" if v is None else graph.constant(np.array(v, "float32")) for v in (low, high)]
    return graph.node("Clip", name, *(bounds if bounds[1] else bounds[:1]))


def _weights(graph: Graph, arrange: Callable[[Array], Array], axis: int | None) -> tuple[str, str]:
    """Write weights and bias, and return their names.

    Args:
        graph: the graph.
        arrange: makes ONNX's order of axes of ours, output channels first.
        axis: where the output channels are then; None if ONNX has no scale for each in that place.
    """
    _, weight, bias = (constant(a) for a in _tensors(graph))
    if weight is None or bias is None:
        raise graph.unsupported("its weights aren't constant")
    name = str(graph.binding.var.name)
    if not graph.is_int8:
        return graph.constant(arrange(weight), f"{name}.weight"), graph.constant(bias, f"{name}.bias")
    quantized = graph.quantized_weights()
    exact_scale = graph.written_weight_scales(quantized)
    bias_scale, scale = ((s * exact_scale).astype("float32") for s in (graph.input_scale(), 1))
    bias_name = graph.dequantized(quantized.bias, bias_scale, 0, f"{name}.bias")
    if axis is None:
        reals = quantized.weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        return graph.constant(arrange(reals.astype("float32")), f"{name}.weight"), bias_name
    stored = arrange(quantized.weight).astype(graph.weight_dtype())
    return graph.dequantized(stored, scale, axis, f"{name}.weight"), bias_name


@_converts(ops.Conv2d)
def conv2d(graph: Graph) -> Written:
    """`nn.conv2d` -> Conv."""
    operator = _described(graph, ops.Conv2d)
    weight, bias = _weights(graph, lambda w: w.transpose(0, 3, 1, 2), 0)
    y = graph.node(
        "Conv",
        graph.channels_first(_tensors(graph)[0]),
        weight,
        bias,
        strides=operator.strides,
        pads=operator.padding,
        dilations=operator.dilation,
        group=operator.groups,
    )
    return Written(_clipped(graph, y, operator), channels_first=True)


@_converts(ops.Conv2dTranspose)
def conv2d_transpose(graph: Graph) -> Written:
    """`nn.conv2d_transpose` -> ConvTranspose, whose weights begin with the input's channels."""
    operator, groups = _described(graph, ops.Conv2dTranspose), _described(graph, ops.Conv2dTranspose).groups

    def arrange(weight: Array) -> Array:
        out, height, width, per_group = weight.shape
        grouped = weight.reshape(groups, out // groups, height, width, per_group)
        return np.asarray(grouped.transpose(0, 4, 1, 2, 3).reshape(groups * per_group, out // groups, height, width))

    weight, bias = _weights(graph, arrange, 1 if groups == 1 else None)
    y = graph.node(
        "ConvTranspose",
        graph.channels_first(_tensors(graph)[0]),
        weight,
        bias,
        strides=operator.strides,
        pads=operator.padding,
        output_padding=operator.output_padding,
        dilations=operator.dilation,
        group=groups,
    )
    return Written(_clipped(graph, y, operator), channels_first=True)


@_converts(ops.Dense)
def dense(graph: Graph) -> Written:
    """`nn.dense` -> Gemm for a matrix, MatMul and Add for more axes."""
    operator, x = _described(graph, ops.Dense), _tensors(graph)[0]
    if len(_shape(x)) == 2:
        weight, bias = _weights(graph, lambda w: w, 0)
        y = graph.node("Gemm", graph.as_is(x), weight, bias, transB=1)
    else:
        weight, bias = _weights(graph, lambda w: w.T, 1)
        y = graph.node("Add", graph.node("MatMul", graph.as_is(x), weight), bias)
    return Written(_clipped(graph, y, operator))


@_converts(ops.MatMul)
def matmul(graph: Graph) -> Written:
    """`nn.matmul` -> MatMul."""
    a, b = _tensors(graph)
    right = graph.as_is(b)
    if _described(graph, ops.MatMul).transpose_b:
        rank = len(_shape(b))
        right = graph.node("Transpose", right, perm=[*range(rank - 2), rank - 1, rank - 2])
    return Written(graph.node("MatMul", graph.as_is(a), right))


@_converts("matmul")
def relax_matmul(graph: Graph) -> Written:
    """Products of matrices of any type."""
    return Written(graph.node("MatMul", *map(graph.as_is, _tensors(graph))))


def _elementwise(operator: str) -> Convert:
    """Return what writes a function of single values as one node."""

    def write(graph: Graph) -> Written:
        names, channels_first = graph.together(_tensors(graph))
        return Written(graph.node(operator, *names), channels_first)

    return write


for _relax_name, _onnx_name in SIMPLE.items():
    _converts(_relax_name)(_elementwise(_onnx_name))


@_converts(ops.Add)
def add(graph: Graph) -> Written:
    """`nn.add` -> Add, and its fused activation."""
    names, channels_first = graph.together(_tensors(graph))
    return Written(_clipped(graph, graph.node("Add", *names), _described(graph, ops.Add)), channels_first)


@_converts(ops.PRelu)
def prelu(graph: Graph) -> Written:
    """`nn.prelu` -> PRelu."""
    names, channels_first = graph.together(_tensors(graph))
    return Written(graph.node("PRelu", *names), channels_first)


_RELU6 = '["add","x",3.0],["maximum","#0",0.0],["minimum","#1",6.0]'

FORMULAS = {
    f'[{_RELU6},["multiply","x","#2"],["divide","#3",6.0]]': "HardSwish",
    f'[{_RELU6},["divide","#2",6.0],["multiply","x","#3"]]': "HardSwish",
    '[["maximum","x",0.0]]': "Relu",
}
"""Formulas that ONNX has a node for."""


@_converts(ops.Unary)
def unary(graph: Graph) -> Written:
    """`nn.unary` -> the nodes of its formula, or the one that ONNX has for all of it."""
    operator = _described(graph, ops.Unary)
    (x,), channels_first = graph.together(_tensors(graph))
    if operator.expression in FORMULAS:
        return Written(graph.node(FORMULAS[operator.expression], x), channels_first)
    return Written(_formula(graph, x, operator.formula), channels_first)


def _formula(graph: Graph, x: str, formula: Formula) -> str:
    def number(value: float) -> str:
        return graph.constant(np.array(value, "float32"))

    def function(name: str, *operands: str) -> str:
        if name == "rsqrt":
            return graph.node("Reciprocal", graph.node("Sqrt", *operands))
        return graph.node(SIMPLE[name], *operands)

    return formula.fold(x, number, function)


@_converts(*(name.removeprefix("relax.") for name in (*relax_operators.DerivedFunction.names, "rsqrt")), "nn.leakyrelu")
def derived(graph: Graph) -> Written:
    """Functions of one value that are several in ONNX -> the nodes of their formulas."""
    traits = ops.traits_of(graph.binding)
    formula = traits.formula(Formula()) if isinstance(traits, relax_operators.Elementwise) else None
    if formula is None:
        raise TypeError(f"{graph.binding.operator} has no formula")
    (x,), channels_first = graph.together(_tensors(graph))
    return Written(_formula(graph, x, formula), channels_first)


@_converts("clip")
def clip(graph: Graph) -> Written:
    """Values limited to constants."""
    (x,), channels_first = graph.together(_tensors(graph)[:1])
    dtype = tensor_type(graph.binding.var).dtype
    limits = [graph.constant(np.array(float(v.value), dtype)) for v in _tensors(graph)[1:]]
    return Written(graph.node("Clip", x, *limits), channels_first)


@_converts("astype")
def cast(graph: Graph) -> Written:
    """The same values in another dtype."""
    (x,), channels_first = graph.together(_tensors(graph)[:1])
    dtype = np.dtype(tensor_type(graph.binding.var).dtype)
    return Written(graph.node("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(dtype))), channels_first)


@_converts(ops.Softmax)
def softmax(graph: Graph) -> Written:
    """`nn.softmax` -> Softmax along the last axis."""
    (x,), channels_first = graph.together(_tensors(graph))
    return Written(graph.node("Softmax", x, axis=1 if channels_first else -1), channels_first)


@_converts(ops.LayerNorm)
def layer_norm(graph: Graph) -> Written:
    """`nn.layer_norm` -> LayerNormalization."""
    epsilon = _described(graph, ops.LayerNorm).epsilon
    return Written(graph.node("LayerNormalization", *map(graph.as_is, _tensors(graph)), axis=-1, epsilon=epsilon))


@_converts(ops.MaxPool2d)
def max_pool2d(graph: Graph) -> Written:
    """`nn.max_pool2d` -> MaxPool."""
    operator = _described(graph, ops.MaxPool2d)
    y = graph.node(
        "MaxPool",
        graph.channels_first(_tensors(graph)[0]),
        kernel_shape=operator.pool_size,
        strides=operator.strides,
        pads=operator.padding,
        dilations=operator.dilation,
    )
    return Written(y, channels_first=True)


@_converts("nn.avg_pool2d")
def avg_pool2d(graph: Graph) -> Written:
    """Means over windows -> AveragePool."""
    attrs = graph.binding.value.attrs
    if attrs["layout"] != "NHWC" or any(int(d) != 1 for d in attrs["dilation"]):
        raise graph.unsupported("its windows are dilated")
    y = graph.node(
        "AveragePool",
        graph.channels_first(_tensors(graph)[0]),
        kernel_shape=[int(v) for v in attrs["pool_size"]],
        strides=[int(v) for v in attrs["strides"]],
        pads=[int(v) for v in attrs["padding"]],
        count_include_pad=int(bool(attrs["count_include_pad"])),
    )
    return Written(y, channels_first=True)


_REDUCTIONS = {"max": "ReduceMax", "mean": "ReduceMean", "min": "ReduceMin", "prod": "ReduceProd", "sum": "ReduceSum"}

AXES_ARE_INPUTS = 18
"""The version of ONNX's operators in which axes of all reductions are inputs; those of ReduceSum are earlier."""


@_converts(*_REDUCTIONS)
def reduction(graph: Graph) -> Written:
    """One value for all along some axes; the mean of an image is a GlobalAveragePool."""
    (x,), attrs = _tensors(graph), graph.binding.value.attrs
    rank, keepdims = len(_shape(x)), int(bool(attrs["keepdims"]))
    axes = list(range(rank)) if attrs["axis"] is None else sorted(int(a) % rank for a in attrs["axis"])
    name = graph.binding.operator.removeprefix("relax.")
    if rank == 4 and axes == [1, 2] and graph.has_channels_first(x):
        image = graph.channels_first(x)
        if name == "mean":
            pooled = graph.node("GlobalAveragePool", image)
            return Written(pooled, True) if keepdims else Written(_reshaped(graph, pooled))
        y = _reduced(graph, name, image, [2, 3], keepdims)
        return Written(y, channels_first=bool(keepdims))
    return Written(_reduced(graph, name, graph.as_is(x), axes, keepdims))


@_converts("variance")
def variance(graph: Graph) -> Written:
    """The mean squared difference from the mean."""
    (x,), attrs = _tensors(graph), graph.binding.value.attrs
    rank, name = len(_shape(x)), graph.as_is(x)
    axes = list(range(rank)) if attrs["axis"] is None else [int(a) % rank for a in attrs["axis"]]
    centred = graph.node("Sub", name, _reduced(graph, "mean", name, axes, keepdims=1))
    return Written(_reduced(graph, "mean", graph.node("Mul", centred, centred), axes, int(bool(attrs["keepdims"]))))


def _reduced(graph: Graph, name: str, x: str, axes: list[int], keepdims: int) -> str:
    if name == "sum" or graph.opset >= AXES_ARE_INPUTS:
        return graph.node(_REDUCTIONS[name], x, graph.integers(axes), keepdims=keepdims)
    return graph.node(_REDUCTIONS[name], x, axes=axes, keepdims=keepdims)


def _reshaped(graph: Graph, name: str) -> str:
    """Write a reshape to the shape of the result."""
    return graph.node("Reshape", name, graph.integers(_shape(graph.binding.var)))


@_converts("reshape", "squeeze", "expand_dims", "flatten")
def reshape(graph: Graph) -> Written:
    """The same values in another shape; of images of one pixel or channel, the order of axes doesn't matter."""
    x, shape = _tensors(graph)[0], _shape(graph.binding.var)
    if len(shape) == 4 and shape[3] == 1 and _shape(x) == (shape[0], 1, *shape[1:3]):
        return Written(graph.as_is(x), channels_first=True)
    one_pixel = len(_shape(x)) == 4 and _shape(x)[1:3] == (1, 1)
    return Written(
        _reshaped(graph, graph.channels_first(x) if one_pixel and graph.has_channels_first(x) else graph.as_is(x))
    )


@_converts("broadcast_to")
def broadcast_to(graph: Graph) -> Written:
    """Values repeated along axes."""
    return Written(graph.node("Expand", graph.as_is(_tensors(graph)[0]), graph.integers(_shape(graph.binding.var))))


@_converts("permute_dims")
def permute_dims(graph: Graph) -> Written:
    """Another order of axes; to and from channels first, the same ONNX tensor."""
    x, traits = _tensors(graph)[0], ops.traits_of(graph.binding)
    axes = traits.axes if isinstance(traits, relax_operators.PermuteDims) else ()
    if axes == (0, 2, 3, 1):
        return Written(graph.as_is(x), channels_first=True)
    if axes == (0, 3, 1, 2):
        return Written(graph.channels_first(x))
    return Written(graph.node("Transpose", graph.as_is(x), perm=axes))


def _placed(graph: Graph, x: relax.Expr, axis: int) -> tuple[str, int, bool]:
    """Return a tensor's name, where an axis of it is, and whether its channels are first."""
    axis %= len(_shape(x))
    if graph.has_channels_first(x):
        return graph.channels_first(x), _FIRST[axis], True
    return graph.as_is(x), axis, False


@_converts("concat")
def concat(graph: Graph) -> Written:
    """Tensors one after another."""
    parts = list(_tensors(graph)[0].fields)
    axis = int(graph.binding.value.attrs["axis"]) % len(_shape(graph.binding.var))
    channels_first = any(map(graph.has_channels_first, parts))
    names = [graph.channels_first(p) if channels_first else graph.as_is(p) for p in parts]
    return Written(graph.node("Concat", *names, axis=_FIRST[axis] if channels_first else axis), channels_first)


@_converts("strided_slice")
def strided_slice(graph: Graph) -> Written:
    """A range along some axes."""
    x, *fields = _tensors(graph)
    axes, begin, end, *strides = ([int(v.value) for v in t.fields] for t in fields)
    steps = strides[0] if strides else [1] * len(axes)
    name, _, channels_first = _placed(graph, x, 0)
    rank = len(_shape(x))
    placed = [_FIRST[a % rank] if channels_first else a % rank for a in axes]
    # Beyond the first element, NumPy and ONNX end at it.
    names = [graph.integers(v) for v in (begin, end, placed, steps)]
    return Written(graph.node("Slice", name, *names), channels_first)


@_converts("take")
def take(graph: Graph) -> Written:
    """Parts along an axis, picked by index."""
    (x, indices), attrs = _tensors(graph), graph.binding.value.attrs
    picked = graph.as_is(indices)
    if attrs["axis"] is None:
        flat = graph.node("Reshape", graph.as_is(x), graph.integers([-1]))
        return Written(graph.node("Gather", flat, picked, axis=0))
    if len(_shape(indices)) == 1:
        name, axis, channels_first = _placed(graph, x, int(attrs["axis"]))
        return Written(graph.node("Gather", name, picked, axis=axis), channels_first)
    return Written(graph.node("Gather", graph.as_is(x), picked, axis=int(attrs["axis"])))


@_converts("gather_elements")
def gather_elements(graph: Graph) -> Written:
    """Single values along an axis, picked by index."""
    names = map(graph.as_is, _tensors(graph))
    return Written(graph.node("GatherElements", *names, axis=int(graph.binding.value.attrs["axis"])))


@_converts("gather_nd")
def gather_nd(graph: Graph) -> Written:
    """Parts at given places."""
    names = map(graph.as_is, _tensors(graph))
    return Written(graph.node("GatherND", *names, batch_dims=int(graph.binding.value.attrs["batch_dims"])))


@_converts("argmax", "argmin")
def extreme(graph: Graph) -> Written:
    """Where the largest or the smallest value along an axis is."""
    x, attrs = _tensors(graph)[0], graph.binding.value.attrs
    name = "ArgMax" if graph.binding.operator.endswith("argmax") else "ArgMin"
    if attrs["axis"] is None:
        raise graph.unsupported("it is of all axes at once")
    y = graph.node(name, graph.as_is(x), axis=int(attrs["axis"]), keepdims=int(bool(attrs["keepdims"])))
    dtype = np.dtype(tensor_type(graph.binding.var).dtype)
    return Written(y if dtype == np.int64 else graph.node("Cast", y, to=int(helper.np_dtype_to_tensor_dtype(dtype))))


@_converts("topk")
def topk(graph: Graph) -> list[Written]:
    """The first values in order, and where they were."""
    x, attrs = _tensors(graph)[0], graph.binding.value.attrs
    if str(attrs["ret_type"]) != "both" or str(attrs["dtype"]) != "int64":
        raise graph.unsupported("only one of values and indices is asked for")
    count = graph.integers([int(attrs["k"])])
    largest, axis = int(bool(attrs["largest"])), int(attrs["axis"])
    return [Written(y) for y in graph.nodes("TopK", graph.as_is(x), count, count=2, axis=axis, largest=largest)]


@_converts("cumsum")
def cumulative_sum(graph: Graph) -> Written:
    """Sums of all that comes before along an axis."""
    x, attrs = _tensors(graph)[0], graph.binding.value.attrs
    axis = graph.constant(np.array(int(attrs["axis"]), "int64"))
    return Written(graph.node("CumSum", graph.as_is(x), axis, exclusive=int(bool(attrs["exclusive"]))))


@_converts(ops.Pad)
def pad(graph: Graph) -> Written:
    """`nn.pad` -> Pad."""
    operator = _described(graph, ops.Pad)
    top, left, bottom, right = operator.padding
    sides = graph.integers([0, 0, top, left, 0, 0, bottom, right])
    value = graph.constant(np.array(operator.value, tensor_type(graph.binding.var).dtype))
    return Written(graph.node("Pad", graph.channels_first(_tensors(graph)[0]), sides, value), channels_first=True)


@_converts("nn.pad")
def pad_any(graph: Graph) -> Written:
    """Constant values around a tensor of any number of axes."""
    x, attrs = _tensors(graph)[0], graph.binding.value.attrs
    if str(attrs["pad_mode"]) != "constant":
        raise graph.unsupported(f"there is no form of nn.pad with mode {attrs['pad_mode']} yet")
    sides = [int(v) for v in attrs["pad_width"]]
    value = graph.constant(np.array(float(attrs["pad_value"]), tensor_type(graph.binding.var).dtype))
    return Written(graph.node("Pad", graph.as_is(x), graph.integers([*sides[::2], *sides[1::2]]), value))


@_converts(ops.DepthToSpace)
def depth_to_space(graph: Graph) -> Written:
    """`nn.depth_to_space` -> DepthToSpace for ONNX's two orders of channels."""
    operator, shape = _described(graph, ops.DepthToSpace), _shape(_tensors(graph)[0])
    (height, width), depth = operator.block, shape[3] // (operator.block[0] * operator.block[1])
    if height != width or any(operator.crop) or operator.groups not in (1, depth):
        raise graph.unsupported("its blocks aren't square, or come in another order than ONNX's")
    mode = "DCR" if operator.groups == 1 else "CRD"
    y = graph.node("DepthToSpace", graph.channels_first(_tensors(graph)[0]), blocksize=height, mode=mode)
    return Written(y, channels_first=True)


@_converts(ops.ResizeBilinear)
def resize_bilinear(graph: Graph) -> Written:
    """`nn.resize_bilinear` -> Resize, if its pixels are where one of ONNX's modes has them."""
    operator, (x,) = _described(graph, ops.ResizeBilinear), _tensors(graph)
    mode = _coordinates(operator, _shape(x)[1:3])
    if mode is None:
        raise graph.unsupported("its pixels aren't where any of ONNX's modes has them")
    scales = [1.0, 1.0, *(1 / step if step else 1.0 for step in operator.steps)]
    sizes = (*_shape(x)[:1], _shape(x)[3], *operator.size)
    # What is scaled by a number is exact by that number, wherever it gives this size.
    scaled = all(int(np.float32(f) * n) == o for f, n, o in zip(scales[2:], _shape(x)[1:3], operator.size, strict=True))
    if scaled and mode != "align_corners":
        inputs = [graph.constant(np.array(scales, "float32"))]
    else:
        inputs = ["", graph.integers(sizes)]
    image = graph.channels_first(x)
    y = graph.node("Resize", image, "", *inputs, mode="linear", coordinate_transformation_mode=mode)
    return Written(y, channels_first=True)


def _coordinates(operator: ops.ResizeBilinear, sizes: Sequence[int]) -> str | None:
    """Return which of ONNX's modes finds the same pixels; None if none does."""
    pairs = list(zip(operator.starts, operator.steps, sizes, operator.size, strict=True))
    rules: dict[str, Callable[[float, float, int, int], bool]] = {
        "half_pixel": lambda start, step, size, out: _near(start, step / 2 - 0.5),
        "asymmetric": lambda start, step, size, out: _near(start, 0),
        "align_corners": lambda start, step, size, out: (
            _near(start, 0) and (out == 1 or _near(step, (size - 1) / (out - 1)))
        ),
    }
    for mode, fits in rules.items():
        even = mode == "align_corners" or all(int(size / step + 1e-3) == out for _, step, size, out in pairs if step)
        if even and all(fits(*pair) for pair in pairs):
            return mode
    return None


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) < 1e-6


_ROUNDING = {
    "floor": "floor",
    "ceil": "ceil",
    "round": "round_prefer_floor",
    "round_prefer_floor": "round_prefer_floor",
    "round_prefer_ceil": "round_prefer_ceil",
}


@_converts("image.resize2d")
def resize_nearest(graph: Graph) -> Written:
    """Nearest neighbours -> Resize."""
    attrs, shape = graph.binding.value.attrs, _shape(graph.binding.var)
    mode = str(attrs["coordinate_transformation_mode"])
    if attrs["method"] != "nearest_neighbor" or mode not in ("asymmetric", "half_pixel"):
        raise graph.unsupported(f"there is no form of image.resize2d with {attrs['method']} and {mode} yet")
    channels_last, x = str(attrs["layout"]) == "NHWC", _tensors(graph)[0]
    image = graph.channels_first(x) if channels_last else graph.as_is(x)
    sizes = graph.integers((shape[0], shape[3], *shape[1:3]) if channels_last else shape)
    rounding = _ROUNDING[str(attrs["rounding_method"]) or "round"]
    y = graph.node(
        "Resize", image, "", "", sizes, mode="nearest", coordinate_transformation_mode=mode, nearest_mode=rounding
    )
    return Written(y, channels_first=channels_last)
