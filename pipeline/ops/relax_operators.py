"""Relax's own operators, as far as programs hold some whose traits matter: the same questions are asked of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding
from pipeline.ir.operator import Array, Traits
from pipeline.ir.types import TensorType
from pipeline.ops.formula import FUNCTIONS, Formula, X, apply, lower_bound

_relax_operators: dict[str, type[RelaxOperator]] = {}


class RelaxOperator(Traits):
    """A call of one of Relax's operators. A class is found by each of its `names` from its definition on.

    Class attributes:
        names: the operators' names, e.g. `relax.reshape`.

    Args:
        binding: what the program says.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, binding: Binding) -> None:
        self.binding = binding

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _relax_operators.update(dict.fromkeys(vars(cls).get("names", ()), cls))

    @property
    def name(self) -> str:
        """The operator's name, without `relax.`."""
        return self.binding.operator.removeprefix("relax.")

    @property
    def output(self) -> TensorType:
        """The result's type."""
        return tensor_type(self.binding.var)

    @property
    def call(self) -> relax.Call:
        """The call, with attributes and with arguments that are no tensors."""
        return self.binding.value

    def attribute(self, name: str) -> Any:
        """Return the value of an attribute."""
        return self.call.attrs[name]


def relax_operators() -> Mapping[str, type[RelaxOperator]]:
    """Return the classes that describe Relax's operators, by the operators' names."""
    return MappingProxyType(_relax_operators)


def _relax(names: str) -> tuple[str, ...]:
    return tuple(f"relax.{name}" for name in names.split())


class Elementwise(RelaxOperator):
    """Base of functions of one value of each operand."""

    elementwise = True

    def formula(self, *operands: Formula | float) -> Formula | None:
        """Return the function's formula of these operands; None if it has none."""
        raise NotImplementedError

    def lower_bound(self, *bounds: float) -> float:
        """Return what the formula's steps guarantee, if there is one operand."""
        formula = self.formula(X) if len(bounds) == 1 else None
        return -math.inf if formula is None else formula.fold(bounds[0], float, lower_bound)


class Function(Elementwise):
    """Functions that formulas are made of."""

    names = _relax(" ".join(FUNCTIONS))

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the function of these operands."""
        return apply(self.name, *operands)

    def lower_bound(self, *bounds: float) -> float:
        """Return what the function guarantees."""
        return lower_bound(self.name, *bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(FUNCTIONS[self.name][1](*arguments), self.output.dtype)


def _gated(x: Formula | float, gate: Formula) -> Formula:
    return apply("multiply", apply("multiply", x, 0.5), apply("add", gate, 1.0))


def _gelu(x: Formula | float) -> Formula:
    return _gated(x, apply("erf", apply("multiply", x, 0.7071067811865476)))


def _gelu_tanh(x: Formula | float) -> Formula:
    cube = apply("multiply", apply("multiply", x, x), x)
    inner = apply("multiply", apply("add", x, apply("multiply", cube, 0.044715)), 0.7978845608028654)
    return _gated(x, apply("tanh", inner))


class DerivedFunction(Elementwise):
    """Functions of one value that are several in one."""

    FORMULAS: ClassVar[Mapping[str, Callable[[Formula | float], Formula]]] = {
        "nn.gelu": _gelu,
        "nn.gelu_tanh": _gelu_tanh,
        "nn.relu": lambda x: apply("maximum", x, 0.0),
        "nn.relu6": lambda x: apply("minimum", apply("maximum", x, 0.0), 6.0),
        "nn.silu": lambda x: apply("multiply", x, apply("sigmoid", x)),
        "square": lambda x: apply("multiply", x, x),
    }
    REFERENCES: ClassVar[Mapping[str, Callable[[Array], Array]]] = {
        "nn.gelu": lambda x: x * 0.5 * (1 + FUNCTIONS["erf"][1](x / math.sqrt(2))),
        "nn.gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "nn.relu": lambda x: np.maximum(x, 0),
        "nn.relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
        "nn.silu": lambda x: x / (1 + np.exp(-x)),
        "square": np.square,
    }

    names = _relax(" ".join(FORMULAS))

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the function of one operand."""
        return self.FORMULAS[self.name](*operands)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(self.REFERENCES[self.name](*arguments), self.output.dtype)


class LeakyRelu(Elementwise):
    """`x` where it is positive, `alpha * x` elsewhere."""

    names = _relax("nn.leakyrelu")

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the sum of what is positive and what isn't."""
        (x,) = operands
        negative = apply("multiply", apply("minimum", x, 0.0), float(self.attribute("alpha")))
        return apply("add", apply("maximum", x, 0.0), negative)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        (x,) = arguments
        return np.asarray(np.where(x > 0, x, x * np.float32(self.attribute("alpha"))))


class Clip(Elementwise):
    """`min(max(x, low), high)`."""

    names = _relax("clip")

    @property
    def limits(self) -> tuple[float, float]:
        """The lower and the upper limit."""
        low, high = (float(limit.value) for limit in self.call.args[1:])
        return low, high

    def formula(self, *operands: Formula | float) -> Formula:
        """Return the limited operand."""
        return apply("minimum", apply("maximum", operands[0], self.limits[0]), self.limits[1])

    def evaluate(self, *arguments: Array) -> Array:
        """Return the limited values."""
        low, high = map(np.float32, self.limits)
        return np.asarray(np.minimum(np.maximum(arguments[0], low), high))


class Cast(Elementwise):
    """The same values in another dtype."""

    names = _relax("astype")

    def formula(self, *operands: Formula | float) -> None:
        """Return None: formulas have one dtype."""

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        with np.errstate(all="ignore"):
            return np.asarray(arguments[0], self.output.dtype)


class Softplus(Elementwise):
    """`log(1 + exp(x))`, which TVM computes by a formula of its own."""

    names = _relax("nn.softplus")

    def formula(self, *operands: Formula | float) -> None:
        """Return None: it has none that doesn't overflow."""

    def lower_bound(self, *bounds: float) -> float:
        """Return 0."""
        del bounds
        return 0.0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        return np.asarray(np.logaddexp(arguments[0], 0), self.output.dtype)


class Reshape(RelaxOperator):
    """Another shape for the same values in the same order."""

    names = _relax("expand_dims flatten reshape squeeze")
    moves_values = True

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether it is `relax.reshape`, of which it is known how to write it for one image."""
        del inputs, constants
        return self.name == "reshape"

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values in their new shape."""
        return np.asarray(arguments[0].reshape(self.output.shape))


class PermuteDims(RelaxOperator):
    """Another order of axes."""

    names = _relax("permute_dims")
    moves_values = True

    @property
    def axes(self) -> tuple[int, ...]:
        """Which axis of x each axis of the result is."""
        axes, rank = self.attribute("axes"), len(self.output.shape)
        return tuple(reversed(range(rank))) if axes is None else tuple(int(a) % rank for a in axes)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether the first axis stays."""
        del inputs, constants
        return self.axes[0] == 0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        return np.transpose(arguments[0], self.axes)


class Concat(RelaxOperator):
    """Tensors one after another along an axis."""

    names = _relax("concat")

    def lower_bound(self, *bounds: float) -> float:
        """Return the least bound."""
        return min(bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        return np.concatenate(arguments, int(self.attribute("axis")))


class StridedSlice(RelaxOperator):
    """A range along some axes, with steps."""

    names = _relax("strided_slice")
    moves_values = True

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        (x,) = arguments
        axes, begin, end, *strides = ([int(v.value) for v in t.fields] for t in self.call.args[1:])
        index = [slice(None)] * x.ndim
        for i, axis in enumerate(axes):
            step = strides[0][i] if strides else 1
            stop = None if step < 0 and end[i] < -x.shape[axis] else end[i]
            index[axis] = slice(begin[i], stop, step)
        return np.asarray(x[tuple(index)])


class Take(RelaxOperator):
    """Slices along an axis, picked by index."""

    names = _relax("take")
    moves_values = True

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def evaluate(self, *arguments: Array) -> Array:
        """Return the slices."""
        axis, clips = self.attribute("axis"), str(self.attribute("mode")) == "clip"
        x, indices = arguments
        return np.asarray(np.take(x, indices, None if axis is None else int(axis), mode="clip" if clips else "raise"))


class GatherElements(RelaxOperator):
    """Values along an axis, picked by an index for each."""

    names = _relax("gather_elements")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        x, indices = arguments
        return np.take_along_axis(x, indices.astype("int64"), int(self.attribute("axis")))


class Resize2d(RelaxOperator):
    """An image of another size. Nearest neighbours are moved, and so are means of two by linear interpolation."""

    names = _relax("image.resize2d")

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        # Cubic interpolation goes beyond what it is between, and a part beyond the image has a value of its own.
        inside = self.attribute("coordinate_transformation_mode") != "tf_crop_and_resize"
        self.moves_values = inside and self.attribute("method") in ("nearest_neighbor", "linear")

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, if values are moved."""
        return bounds[0] if self.moves_values else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the nearest neighbours, as TVM finds them: coordinates a little off an integer count as that integer.

        Raises:
            NotImplementedError: it interpolates, or maps coordinates in a way that programs have no use for.
        """
        x, mode = arguments[0], self.attribute("coordinate_transformation_mode")
        if self.attribute("method") != "nearest_neighbor" or mode not in ("asymmetric", "half_pixel"):
            raise NotImplementedError("Only nearest-neighbour resizing has a NumPy reference")
        half = 0.5 if mode == "half_pixel" else 0.0
        rounding: dict[str, Callable[[Array], Array]] = {
            "floor": lambda v: np.floor(v + 1e-5),
            "ceil": lambda v: np.ceil(v - 1e-5),
            "round": np.rint,
            "round_prefer_floor": lambda v: np.ceil(v - 0.5),
            "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        }
        pick = rounding[self.attribute("rounding_method") or "round"]
        first = self.attribute("layout").index("H")
        for axis in (first, first + 1):
            size, wanted = x.shape[axis], self.output.shape[axis]
            source = (np.arange(wanted) + half) * (size / wanted) - half
            x = np.take(x, np.clip(pick(source), 0, size - 1).astype("int64"), axis)
        return np.asarray(x)


class Reduction(RelaxOperator):
    """One value for all that lie along some axes."""

    FUNCTIONS: ClassVar[Mapping[str, Callable[..., Array]]] = {
        "max": np.max,
        "mean": np.mean,
        "min": np.min,
        "sum": np.sum,
    }

    names = _relax(" ".join(FUNCTIONS))

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound; of sums, 0 if no value is less."""
        return bounds[0] if self.name != "sum" else 0.0 if bounds[0] >= 0 else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the reduced values."""
        axis, keepdims = self.attribute("axis"), bool(self.attribute("keepdims"))
        axes = None if axis is None else tuple(int(a) for a in axis)
        return np.asarray(self.FUNCTIONS[self.name](arguments[0], axis=axes, keepdims=keepdims))


class MeanPool(RelaxOperator):
    """Means over windows of an image."""

    names = _relax("nn.avg_pool2d")

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, or 0 if that is less: padded pixels may count."""
        return min(bounds[0], 0.0)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the means."""
        (x,) = arguments
        (window_h, window_w), (stride_h, stride_w) = (
            tuple(int(v) for v in self.attribute(name)) for name in ("pool_size", "strides")
        )
        top, left, bottom, right = (int(v) for v in self.attribute("padding"))
        height, width = x.shape[1:3]
        y = np.empty(self.output.shape, "float32")
        for row, column in np.ndindex(*y.shape[1:3]):
            y0, x0 = row * stride_h - top, column * stride_w - left
            y1, x1 = y0 + window_h, x0 + window_w
            seen = x[:, max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
            padded = (min(y1, height + bottom) - y0) * (min(x1, width + right) - x0)
            counted = padded if bool(self.attribute("count_include_pad")) else seen.shape[1] * seen.shape[2]
            y[:, row, column] = seen.sum(axis=(1, 2)) / counted
        return y


class MatMul(RelaxOperator):
    """Products of matrices."""

    names = _relax("matmul")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the products."""
        return np.asarray(np.matmul(*arguments))


class CumulativeSum(RelaxOperator):
    """Sums of all that comes before along an axis."""

    names = _relax("cumsum")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the sums."""
        (x,) = arguments
        total = np.cumsum(x, int(self.attribute("axis")), dtype=self.output.dtype)
        return np.asarray(total - x if self.attribute("exclusive") else total)


class _Sorting(RelaxOperator):
    """Base of what sorts along an axis; equal values stay in their order."""

    def order(self, x: Array, descending: bool) -> Array:
        """Return the order of values, as indices."""
        return np.argsort(-x.astype("float64") if descending else x, axis=int(self.attribute("axis")), kind="stable")


class ArgSort(_Sorting):
    """The order of values."""

    names = _relax("argsort")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the indices."""
        order = self.order(arguments[0], bool(self.attribute("descending")))
        return order.astype(str(self.attribute("dtype")))


class Sort(_Sorting):
    """Values in order."""

    names = _relax("sort")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        (x,) = arguments
        order = self.order(x, bool(self.attribute("descending")))
        return np.take_along_axis(x, order, int(self.attribute("axis")))


class TopK(_Sorting):
    """The first values in order, their indices, or both."""

    names = _relax("topk")

    def evaluate(self, *arguments: Array) -> Any:
        """Return the values or indices, or a tuple of both."""
        x, axis, count = arguments[0], int(self.attribute("axis")), int(self.attribute("k"))
        order = self.order(x, bool(self.attribute("largest")))
        order = np.take(order, range(count if count > 0 else x.shape[axis]), axis)
        results = {
            "values": np.take_along_axis(x, order, axis),
            "indices": order.astype(str(self.attribute("dtype"))),
        }
        kind = str(self.attribute("ret_type"))
        return results[kind] if kind in results else tuple(results.values())
