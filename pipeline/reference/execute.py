"""Executes a whole program in NumPy, one operator after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from pipeline.ir.bridge import describe, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, constant
from pipeline.ir.program import Program
from pipeline.ops import pointwise
from pipeline.reference.operators import evaluate

Array = npt.NDArray[Any]
Stock = Callable[..., Any]


def execute(program: Program, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return a program's outputs by name.

    Args:
        program: float or int8.
        feeds: inputs by name, of the program's shapes and dtypes.

    Raises:
        NotImplementedError: the program holds a stock Relax operator that has no NumPy form here.
    """
    values = execute_all(program, feeds)
    outputs = Dataflow.of(program.module).outputs
    return {spec.name: _value(expr, values) for spec, expr in zip(program.outputs, outputs, strict=True)}


def execute_all(program: Program, feeds: Mapping[str, Array]) -> dict[relax.Var, Array]:
    """Return the value of every variable of a program; see `execute`."""
    flow = Dataflow.of(program.module)
    values: dict[relax.Var, Any] = {p: feeds[i.name] for p, i in zip(flow.params, program.inputs, strict=True)}
    for binding in flow.bindings:
        values[binding.var] = evaluate_binding(binding, values)
    return values


def _value(expr: relax.Expr, values: Mapping[relax.Var, Any]) -> Any:
    if isinstance(expr, relax.Var):
        return values[expr]
    if isinstance(expr, relax.Tuple):
        return tuple(_value(f, values) for f in expr.fields)
    return constant(expr)


def evaluate_binding(binding: Binding, values: Mapping[relax.Var, Any]) -> Any:
    """Return the value of one binding, given those of the variables that it reads; see `execute`."""
    value = binding.value
    if isinstance(value, relax.Tuple):
        return _value(value, values)
    if isinstance(value, relax.TupleGetItem):
        return _value(value.tuple_value, values)[value.index]
    attrs = describe(value)
    if attrs is not None:
        return evaluate(attrs, *(_value(a, values) for a in value.args))
    if binding.operator not in STOCK:
        raise NotImplementedError(f"{binding.operator} has no NumPy form in reference.execute")
    return STOCK[binding.operator](binding, values)


def _reshaped(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    return np.asarray(_value(binding.value.args[0], values).reshape(tensor_type(binding.var).shape))


def _permuted(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    axes = binding.value.attrs["axes"]
    return np.transpose(_value(binding.value.args[0], values), None if axes is None else [int(a) for a in axes])


def _concatenated(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    return np.concatenate(_value(binding.value.args[0], values), int(binding.value.attrs["axis"]))


def _sliced(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x = _value(binding.value.args[0], values)
    axes, begin, end, *strides = ([int(v.value) for v in t.fields] for t in binding.value.args[1:])
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        step = strides[0][i] if strides else 1
        stop = None if step < 0 and end[i] < -x.shape[axis] else end[i]
        index[axis] = slice(begin[i], stop, step)
    return np.asarray(x[tuple(index)])


def _reduced(function: Callable[..., Any]) -> Stock:
    def run(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
        axis, keepdims = binding.value.attrs["axis"], bool(binding.value.attrs["keepdims"])
        axes = None if axis is None else tuple(int(a) for a in axis)
        return np.asarray(function(_value(binding.value.args[0], values), axis=axes, keepdims=keepdims))

    return run


def _binary(function: Callable[[Any, Any], Any]) -> Stock:
    def run(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
        return np.asarray(function(*(_value(a, values) for a in binding.value.args)))

    return run


def _taken(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, indices = (_value(a, values) for a in binding.value.args)
    axis, mode = binding.value.attrs["axis"], str(binding.value.attrs["mode"])
    return np.asarray(
        np.take(x, indices, None if axis is None else int(axis), mode="clip" if mode == "clip" else "raise")
    )


def _averaged(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    (window_h, window_w), (stride_h, stride_w) = (tuple(int(v) for v in attrs[k]) for k in ("pool_size", "strides"))
    top, left, bottom, right = (int(v) for v in attrs["padding"])
    batch, out_h, out_w, channels = tensor_type(binding.var).shape
    height, width = x.shape[1:3]
    y = np.empty((batch, out_h, out_w, channels), "float32")
    for row in range(out_h):
        for column in range(out_w):
            y0, x0 = row * stride_h - top, column * stride_w - left
            y1, x1 = y0 + window_h, x0 + window_w
            seen = x[:, max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
            padded = (min(y1, height + bottom) - y0) * (min(x1, width + right) - x0)
            counted = padded if bool(attrs["count_include_pad"]) else seen.shape[1] * seen.shape[2]
            y[:, row, column] = seen.sum(axis=(1, 2)) / counted
    return y


def _resized(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    """Nearest neighbour, as TVM computes it: coordinates a little off an integer count as that integer."""
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    mode = attrs["coordinate_transformation_mode"]
    if attrs["method"] != "nearest_neighbor" or mode not in ("asymmetric", "half_pixel"):
        raise NotImplementedError("Only nearest-neighbour resizing has a NumPy form in reference.execute")
    half = 0.5 if mode == "half_pixel" else 0.0
    rounding: dict[str, Callable[[Array], Array]] = {
        "floor": lambda v: np.floor(v + 1e-5),
        "ceil": lambda v: np.ceil(v - 1e-5),
        "round": np.rint,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    pick = rounding[attrs["rounding_method"] or "round"]
    first = attrs["layout"].index("H")
    for axis in (first, first + 1):
        size, wanted = x.shape[axis], tensor_type(binding.var).shape[axis]
        source = (np.arange(wanted) + half) * (size / wanted) - half
        x = np.take(x, np.clip(pick(source), 0, size - 1).astype("int64"), axis)
    return np.asarray(x)


def _elementwise(function: Callable[..., Any]) -> Stock:
    def run(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
        with np.errstate(all="ignore"):
            value = function(*(_value(a, values) for a in binding.value.args))
        return np.asarray(value, tensor_type(binding.var).dtype)

    return run


def _clipped(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, low, high = binding.value.args
    return np.asarray(np.minimum(np.maximum(_value(x, values), np.float32(low.value)), np.float32(high.value)))


def _leaky(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x = _value(binding.value.args[0], values)
    return np.asarray(np.where(x > 0, x, x * np.float32(binding.value.attrs["alpha"])))


def _order(x: Array, axis: int, descending: bool) -> Array:
    """Return the stable order of values along an axis, as indices."""
    return np.argsort(-x.astype("float64") if descending else x, axis=axis, kind="stable")


def _argsorted(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    return _order(x, int(attrs["axis"]), bool(attrs["descending"])).astype(str(attrs["dtype"]))


def _sorted(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    return np.take_along_axis(x, _order(x, int(attrs["axis"]), bool(attrs["descending"])), int(attrs["axis"]))


def _top(binding: Binding, values: Mapping[relax.Var, Any]) -> Array | tuple[Array, ...]:
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    axis = int(attrs["axis"])
    count = int(attrs["k"]) if int(attrs["k"]) > 0 else x.shape[axis]
    order = np.take(_order(x, axis, bool(attrs["largest"])), range(count), axis)
    results = {"values": np.take_along_axis(x, order, axis), "indices": order.astype(str(attrs["dtype"]))}
    kind = str(attrs["ret_type"])
    return results[kind] if kind in results else tuple(results.values())


def _gathered(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, indices = (_value(a, values) for a in binding.value.args)
    return np.take_along_axis(x, indices.astype("int64"), int(binding.value.attrs["axis"]))


def _summed_so_far(binding: Binding, values: Mapping[relax.Var, Any]) -> Array:
    x, attrs = _value(binding.value.args[0], values), binding.value.attrs
    total = np.cumsum(x, int(attrs["axis"]), dtype=tensor_type(binding.var).dtype)
    return np.asarray(total - x if attrs["exclusive"] else total)


STOCK: dict[str, Stock] = {
    **{f"relax.{name}": _elementwise(function) for name, (_, function) in pointwise.FUNCTIONS.items()},
    "relax.add": _binary(np.add),
    "relax.argsort": _argsorted,
    "relax.astype": _elementwise(np.asarray),
    "relax.clip": _clipped,
    "relax.concat": _concatenated,
    "relax.cumsum": _summed_so_far,
    "relax.divide": _binary(np.divide),
    "relax.expand_dims": _reshaped,
    "relax.gather_elements": _gathered,
    "relax.image.resize2d": _resized,
    "relax.flatten": _reshaped,
    "relax.matmul": _binary(np.matmul),
    "relax.max": _reduced(np.max),
    "relax.maximum": _binary(np.maximum),
    "relax.mean": _reduced(np.mean),
    "relax.minimum": _binary(np.minimum),
    "relax.multiply": _binary(np.multiply),
    "relax.nn.avg_pool2d": _averaged,
    "relax.nn.leakyrelu": _leaky,
    "relax.nn.relu": _elementwise(lambda x: np.maximum(x, 0)),
    "relax.nn.relu6": _elementwise(lambda x: np.minimum(np.maximum(x, 0), 6)),
    "relax.nn.silu": _elementwise(lambda x: x / (1 + np.exp(-x))),
    "relax.permute_dims": _permuted,
    "relax.reshape": _reshaped,
    "relax.sort": _sorted,
    "relax.square": _elementwise(np.square),
    "relax.squeeze": _reshaped,
    "relax.strided_slice": _sliced,
    "relax.subtract": _binary(np.subtract),
    "relax.sum": _reduced(np.sum),
    "relax.take": _taken,
    "relax.topk": _top,
}
"""Stock Relax operators in NumPy."""
