"""PropagateLayout: removes permutations between operators, so that activations stay NHWC from input to output.

Before -> after: `conv -> NCHW -> relu -> NHWC -> conv` becomes `conv -> relu -> conv`. A permutation isn't emitted at
once, but deferred: it is recorded for its variable. Operators that work in any order of axes read the unpermuted
tensor, and their results are recorded as permuted. Successive permutations are composed. A reshape splits and merges
the axes of the unpermuted tensor. A deferred permutation is computed only for an operator that needs the declared order
of axes. Permutations that only move axes of size 1 become reshapes.

Precondition: convolutions and pools are NHWC between permutations, as our converters make them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of, tensor_type
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ops import relax_operators

Axes = tuple[int, ...]

RESIZE_ATTRIBUTES = (
    "method",
    "coordinate_transformation_mode",
    "rounding_method",
    "cubic_alpha",
    "cubic_exclude",
    "extrapolation_value",
    "out_dtype",
)
"""All attributes of `relax.image.resize2d` except for the layout and the region."""


@dataclass(frozen=True)
class _Permuted:
    """A deferred permutation: the tensor `permute_dims(base, axes)`, where base is a variable of the new program."""

    base: relax.Var
    axes: Axes


def propagate_layout(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with permutations removed where possible; see the module's docstring."""
    return _Propagation(module).run()


class _Propagation:
    def __init__(self, module: tvm.IRModule) -> None:
        self.builder = DataflowBuilder(module)
        self.permuted: dict[relax.Var, _Permuted] = {}
        self.computed: dict[_Permuted, relax.Var] = {}

    def run(self) -> tvm.IRModule:
        for binding in self.builder.flow.bindings:
            if not self._handled_unpermuted(binding):
                for v in binding.reads:
                    self._materialize(v)
                self.builder.copy(binding)
        outputs = self.builder.flow.outputs
        return self.builder.finish([self._materialize(o) if isinstance(o, relax.Var) else o for o in outputs])

    def _handled_unpermuted(self, binding: Binding) -> bool:
        """Emit a binding on unpermuted arguments, and return True; return False if that isn't possible."""
        operator = ops.traits_of(binding)
        if operator.elementwise:
            return self._elementwise(binding)
        if operator.rowwise:
            return self._rowwise(binding)
        match operator:
            case relax_operators.PermuteDims():
                return self._permute(binding)
            case relax_operators.Reduction():
                return self._reduce(binding)
            case relax_operators.Concat():
                return self._concat(binding)
            case relax_operators.Resize2d():
                return self._resize(binding)
            case relax_operators.Take():
                return self._take(binding)
            case relax_operators.Reshape():
                return self._reshape(binding)
            case ops.MatMul():
                return self._matmul(binding)
            case _:
                return False

    def _source(self, expr: relax.Expr) -> _Permuted | None:
        """Return a variable as a permutation, which is the identity if none is deferred; None for other expressions."""
        if not isinstance(expr, relax.Var) or not isinstance(expr.ty, relax.TensorType):
            return None
        if expr in self.permuted:
            return self.permuted[expr]
        rank = len(tensor_type(expr).shape)
        return _Permuted(self.builder.replaced(expr), tuple(range(rank)))

    def _permute(self, binding: Binding) -> bool:
        source = self._source(binding.value.args[0])
        axes = binding.value.attrs["axes"]
        if source is None or axes is None:
            return False
        rank = len(source.axes)
        composed = tuple(source.axes[int(a) % rank] for a in axes)
        self._defer(binding.var, _Permuted(source.base, composed))
        return True

    def _defer(self, var: relax.Var, value: _Permuted) -> None:
        if value.axes == tuple(range(len(value.axes))):
            self.builder.values[var] = value.base
        else:
            self.permuted[var] = value

    def _common_order(self, args: Sequence[relax.Expr]) -> Axes | None:
        """Return the axes of the arguments' deferred permutation of the highest rank; None if none is deferred."""
        orders = [self.permuted[a].axes for a in args if isinstance(a, relax.Var) and a in self.permuted]
        return max(orders, key=len) if orders else None

    def _elementwise(self, binding: Binding) -> bool:
        order = self._common_order(binding.value.args)
        if order is None:
            return False
        args = [self._in_order(a, order) for a in binding.value.args]
        if any(a is None for a in args):
            return False
        call = with_arguments(binding.value, args)
        self._defer(binding.var, _Permuted(self.builder.emit(call, binding.var.name), order))
        return True

    def _in_order(self, expr: relax.Expr, order: Axes) -> relax.Expr | None:
        """Return an argument with its axes permuted by the inverse of `order`; None if that isn't possible."""
        inverse = tuple(int(i) for i in np.argsort(order))
        value = constant(expr)
        if value is not None:
            if value.ndim == 0:
                return expr
            if value.ndim > len(order):
                return None
            aligned = value.reshape((1,) * (len(order) - value.ndim) + value.shape)
            return make_constant(aligned.transpose(inverse))
        source = self._source(expr)
        if source is None or len(source.axes) != len(order):
            return None if isinstance(expr, relax.Var) else expr
        return self._computed(_Permuted(source.base, tuple(source.axes[i] for i in inverse)), expr.name)

    def _reduce(self, binding: Binding) -> bool:
        order = self._common_order(binding.value.args)
        axis = binding.value.attrs["axis"]
        if order is None or axis is None:
            return False
        axes = [order[int(a) % len(order)] for a in axis]
        keepdims = bool(binding.value.attrs["keepdims"])
        reduce = {"mean": relax.op.mean, "sum": relax.op.sum, "max": relax.op.max, "min": relax.op.min}
        base = self.permuted[binding.value.args[0]].base
        reduced = reduce[binding.operator.removeprefix("relax.")](base, axes, keepdims=keepdims)
        var = self.builder.emit(reduced, binding.var.name)
        if not keepdims:
            kept = [a for a in order if a not in axes]
            order = tuple(sorted(kept).index(a) for a in kept)
        self._defer(binding.var, _Permuted(var, order))
        return True

    def _concat(self, binding: Binding) -> bool:
        fields = binding.value.args[0]
        if not isinstance(fields, relax.Tuple):
            return False
        order = self._common_order(fields.fields)
        if order is None or any(len(tensor_type(f).shape) != len(order) for f in fields.fields):
            return False
        args = [self._in_order(f, order) for f in fields.fields]
        axis = order[int(binding.value.attrs["axis"]) % len(order)]
        var = self.builder.emit(relax.op.concat(args, axis), binding.var.name)
        self._defer(binding.var, _Permuted(var, order))
        return True

    def _resize(self, binding: Binding) -> bool:
        x, size = binding.value.args
        attrs = binding.value.attrs
        if self._common_order([x]) != (0, 3, 1, 2) or attrs["layout"] != "NCHW":
            return False
        base = self.permuted[x].base
        kept = {k: attrs[k] for k in RESIZE_ATTRIBUTES}
        region = tuple(float(v) for v in attrs["roi"])
        resized = relax.op.image.resize2d(base, size, region, layout="NHWC", **kept)
        self._defer(binding.var, _Permuted(self.builder.emit(resized, binding.var.name), (0, 3, 1, 2)))
        return True

    def _take(self, binding: Binding) -> bool:
        x, indices = binding.value.args
        axis, value, source = binding.value.attrs["axis"], constant(indices), self.permuted.get(x)
        if source is None or axis is None or value is None or value.ndim != 1:
            return False
        taken = relax.op.take(source.base, indices, source.axes[int(axis)], str(binding.value.attrs["mode"]))
        self._defer(binding.var, _Permuted(self.builder.emit(taken, binding.var.name), source.axes))
        return True

    def _reshape(self, binding: Binding) -> bool:
        """Split and merge axes of the unpermuted tensor, if the axes to be merged are adjacent there, too."""
        source = self.permuted.get(binding.value.args[0])
        if source is None:
            return False
        order = _reshaped_order(source.axes, tensor_type(source.base).shape, tensor_type(binding.var).shape)
        if order is None:
            return False
        shape = tensor_type(binding.var).shape
        base = self.builder.emit(relax.op.reshape(source.base, [shape[a] for a in order]), binding.var.name)
        self._defer(binding.var, _Permuted(base, tuple(int(i) for i in np.argsort(order))))
        return True

    def _rowwise(self, binding: Binding) -> bool:
        """Emit a rowwise operator on the unpermuted tensor, if its last axis is the same."""
        x, *constants = binding.value.args
        source = self.permuted.get(x)
        if source is None or source.axes[-1] != len(source.axes) - 1:
            return False
        call = with_arguments(binding.value, [source.base, *constants])
        self._defer(binding.var, _Permuted(self.builder.emit(call, binding.var.name), source.axes))
        return True

    def _matmul(self, binding: Binding) -> bool:
        """Emit a product with the right operand transposed, if its rows are then those of the unpermuted tensor."""
        a, b = binding.value.args
        operator, source = operator_of(binding.value), self.permuted.get(b)
        if not isinstance(operator, ops.MatMul) or source is None:
            return False
        *batch, rows, columns = source.axes
        if rows != len(source.axes) - 1:
            return False
        right = self._computed(_Permuted(source.base, (*batch, columns, rows)), b.name)
        left = self._materialize(a) if isinstance(a, relax.Var) else a
        call = make_call(ops.MatMul(not operator.transpose_b), left, right)
        self.builder.values[binding.var] = self.builder.emit(call, binding.var.name)
        return True

    def _materialize(self, var: relax.Var) -> relax.Expr:
        if var in self.permuted:
            self.builder.values[var] = self._computed(self.permuted[var], var.name)
        return self.builder.replaced(var)

    def _computed(self, value: _Permuted, name: str) -> relax.Expr:
        """Emit a deferred permutation, unless that was done before; as a reshape if only axes of size 1 move."""
        if value.axes == tuple(range(len(value.axes))):
            return value.base
        if value not in self.computed:
            shape = tensor_type(value.base).shape
            moved = [a for a in value.axes if shape[a] != 1]
            call = (
                relax.op.reshape(value.base, [shape[a] for a in value.axes])
                if moved == sorted(moved)
                else relax.op.permute_dims(value.base, list(value.axes))
            )
            # Named for the tensor that is permuted, which users know.
            known = value.base.name if isinstance(value.base, relax.Var) else name
            self.computed[value] = self.builder.emit(call, f"{known}.permuted")
        return self.computed[value]


def _reshaped_order(axes: Axes, base: Sequence[int], target: Sequence[int]) -> Axes | None:
    """Return the order in memory of the axes of a permuted tensor after a reshape; None if it needs a copy.

    Args:
        axes: the permutation: axis i of the tensor is axis `axes[i]` of the unpermuted base.
        base: shape of the base.
        target: shape that the permuted tensor is reshaped to.
    """
    placed: list[tuple[int, int]] = []
    place = -1
    for sources, targets in _blocks([base[a] for a in axes], target):
        moved = [axes[i] for i in sources if base[axes[i]] > 1]
        between = [a for a in range(len(base)) if base[a] > 1 and moved and moved[0] <= a <= moved[-1]]
        if moved != between:
            return None
        # Axes of size 1 stay after the axis that they follow.
        place = moved[0] if moved else place
        placed += [(place, t) for t in targets]
    return tuple(t for _, t in sorted(placed))


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the shortest runs of axes in two shapes whose sizes have the same products.

    Example: (2, 6, 5) and (2, 3, 2, 5) have the runs ([0], [0]), ([1], [1, 2]) and ([2], [3]).
    """
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(left), j + len(right)
        while (a := math.prod(before[k] for k in left)) != (b := math.prod(after[k] for k in right)):
            if a < b:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        blocks.append((left, right))
    return blocks
