"""Relax's operators that move or repeat values: reshaping, slicing, gathering, and resizing of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from pipeline.ir.dataflow import Binding
from pipeline.ir.operator import Array
from pipeline.ir.types import TensorType
from pipeline.ops.relax_operators.base import RelaxOperator, relax_names


class Reshape(RelaxOperator):
    """The same values in the same order in another shape."""

    names = relax_names("expand_dims flatten reshape squeeze")
    moves_values = True

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether it is `relax.reshape`: the pass SplitBatches can rewrite that for one image."""
        del inputs, constants
        return self.name == "reshape"

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values in their new shape."""
        return np.asarray(arguments[0].reshape(self.output.shape))


class PermuteDims(RelaxOperator):
    """A transposition."""

    names = relax_names("permute_dims")
    moves_values = True

    @property
    def axes(self) -> tuple[int, ...]:
        """For each axis of the result, the axis of x that it is."""
        axes, rank = self.attribute("axes"), len(self.output.shape)
        return tuple(reversed(range(rank))) if axes is None else tuple(int(a) % rank for a in axes)

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound."""
        return bounds[0]

    def splits_batch(self, inputs: Sequence[TensorType], constants: Collection[int]) -> bool:
        """Return whether the first axis stays the first."""
        del inputs, constants
        return self.axes[0] == 0

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        return np.transpose(arguments[0], self.axes)


class Concat(RelaxOperator):
    """A concatenation of tensors along an axis."""

    names = relax_names("concat")

    def lower_bound(self, *bounds: float) -> float:
        """Return the least of the tensors' bounds."""
        return min(bounds)

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        return np.concatenate(arguments, int(self.attribute("axis")))


class StridedSlice(RelaxOperator):
    """A slice with steps along some axes."""

    names = relax_names("strided_slice")
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
    """Slices along an axis, selected by indices."""

    names = relax_names("take")
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
    """Single values along an axis, selected by one index each."""

    names = relax_names("gather_elements")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        x, indices = arguments
        return np.take_along_axis(x, indices.astype("int64"), int(self.attribute("axis")))


class ScatterElements(RelaxOperator):
    """A tensor with single values along an axis replaced, at one index each."""

    names = relax_names("scatter_elements")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        reduction = str(self.attribute("reduction"))
        if reduction != "update":
            raise NotImplementedError(f"Scattering with reduction {reduction!r} has no NumPy reference")
        x, indices, updates = arguments
        axis, result = int(self.attribute("axis")), x.copy()
        at = indices.astype("int64")
        np.put_along_axis(result, np.where(at < 0, at + x.shape[axis], at), updates, axis)
        return result


class BroadcastTo(RelaxOperator):
    """A tensor repeated along axes of length 1."""

    names = relax_names("broadcast_to")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        return np.ascontiguousarray(np.broadcast_to(arguments[0], self.output.shape))


class Resize2d(RelaxOperator):
    """Resizing of images. Nearest-neighbour and linear resizing move values, as `Traits.moves_values` defines it."""

    names = relax_names("image.resize2d")

    def __init__(self, binding: Binding) -> None:
        super().__init__(binding)
        # Cubic interpolation overshoots, and cropping beyond the image fills in another value.
        inside = self.attribute("coordinate_transformation_mode") != "tf_crop_and_resize"
        self.moves_values = inside and self.attribute("method") in ("nearest_neighbor", "linear")

    def lower_bound(self, *bounds: float) -> float:
        """Return x's bound, if the operator moves values."""
        return bounds[0] if self.moves_values else -math.inf

    def evaluate(self, *arguments: Array) -> Array:
        """Return the nearest neighbours. As in TVM, coordinates within 1e-5 of an integer count as that integer.

        Raises:
            NotImplementedError: it interpolates, or its coordinates aren't "asymmetric" or "half_pixel".
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
