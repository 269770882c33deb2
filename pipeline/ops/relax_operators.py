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
from pipeline.ops import formula

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
        _relax_operators.update(dict.fromkeys(cls.names, cls))

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


def _gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + formula.FUNCTIONS["erf"][1](x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


class Elementwise(RelaxOperator):
    """Functions of one value of each operand."""

    FUNCTIONS: ClassVar[Mapping[str, Callable[..., Array]]] = {
        **{name: function for name, (_, function) in formula.FUNCTIONS.items()},
        "astype": np.asarray,
        "nn.gelu": _gelu,
        "nn.gelu_tanh": _gelu_tanh,
        "nn.relu": lambda x: np.maximum(x, 0),
        "nn.relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
        "nn.silu": lambda x: x / (1 + np.exp(-x)),
        "nn.softplus": lambda x: np.logaddexp(x, 0),
        "square": np.square,
    }

    names = _relax(" ".join(FUNCTIONS))
    elementwise = True

    def lower_bound(self, *bounds: float) -> float:
        """Return what the function guarantees."""
        return 0.0 if self.name in ("nn.relu", "nn.relu6") else formula.lower_bound(self.name, *bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        with np.errstate(all="ignore"):
            return np.asarray(self.FUNCTIONS[self.name](*arguments), self.output.dtype)


class LeakyRelu(RelaxOperator):
    """`x` where it is positive, `alpha * x` elsewhere."""

    names = _relax("nn.leakyrelu")
    elementwise = True

    def evaluate(self, *arguments: Array) -> Array:
        """Return the function's values."""
        (x,) = arguments
        return np.asarray(np.where(x > 0, x, x * np.float32(self.attribute("alpha"))))


class Clip(RelaxOperator):
    """`min(max(x, low), high)`."""

    names = _relax("clip")
    elementwise = True

    def lower_bound(self, *bounds: float) -> float:
        """Return the limit, or x's bound if that is more and the upper limit allows it."""
        low, high = (float(limit.value) for limit in self.call.args[1:])
        return min(max(bounds[0], low), high)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the limited values."""
        low, high = (np.float32(limit.value) for limit in self.call.args[1:])
        return np.asarray(np.minimum(np.maximum(arguments[0], low), high))


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
    """Every so manieth value of a range along some axes."""

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
