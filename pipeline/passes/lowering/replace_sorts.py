"""ReplaceSorts: Relax's sorting operators become `nn.sort_order`.

Before -> after, with `o = nn.sort_order(x)` along the last axis:

    `argsort(x)` becomes `o`.
    `sort(x)` becomes `gather_elements(x, o)`.
    `topk(x, k)` becomes `gather_elements(x, o)` and `o`, where o has only the first k indices.

To sort along another axis, that axis is moved last, and back afterwards. TVM's own implementation calls functions that
are part of its compiler, but not of its runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import operator_name
from pipeline.ir.rewriting import Match, Rule, anything, call, rewrite


@dataclass(frozen=True)
class _Sort:
    """A sorting operator that is replaced.

    Attributes:
        match: its match.
        axis: the axis along which it sorts, from 0.
        rank: rank of the tensor.
    """

    match: Match
    axis: int
    rank: int

    def sorted_axis_last(self, x: relax.Expr) -> relax.Expr:
        """Return a tensor with the sorted axis moved last."""
        return self._moved(x, [*(a for a in range(self.rank) if a != self.axis), self.axis])

    def sorted_axis_back(self, x: relax.Expr) -> relax.Expr:
        """Return a tensor whose last axis is the sorted one with that axis moved back."""
        axes = list(range(self.rank - 1))
        axes.insert(self.axis, self.rank - 1)
        return self._moved(x, axes)

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Append a binding."""
        return self.match.emit(expr, "sorted")

    def _moved(self, x: relax.Expr, axes: list[int]) -> relax.Expr:
        return x if self.axis == self.rank - 1 else self.emit(relax.op.permute_dims(x, axes))


def _rewrite(match: Match) -> relax.Expr:
    x, found = match["x"], match.call("sort")
    attrs, shape, name = found.attrs, tensor_type(x).shape, operator_name(found).removeprefix("relax.")
    sort = _Sort(match, int(attrs["axis"]) % len(shape), len(shape))
    count, descending = shape[sort.axis], bool(attrs["largest"] if name == "topk" else attrs["descending"])
    if name == "topk" and int(attrs["k"]) > 0:
        count = int(attrs["k"])
    rows = sort.sorted_axis_last(x)
    order = sort.emit(make_call(ops.SortOrder(count, descending), rows))
    kinds = {"sort": "values", "argsort": "indices"}
    kind = kinds.get(name) or str(attrs["ret_type"])
    results = []
    if kind != "indices":
        results.append(sort.sorted_axis_back(sort.emit(relax.op.gather_elements(rows, order, axis=sort.rank - 1))))
    if kind != "values":
        results.append(sort.sorted_axis_back(sort.emit(relax.op.astype(order, str(attrs["dtype"])))))
    return results[0] if len(results) == 1 else relax.Tuple(results)


RULE = Rule("replace_sort", call(["relax.argsort", "relax.sort", "relax.topk"], anything("x"), name="sort"), _rewrite)


def replace_sorts(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with Relax's sorting operators replaced; see the module's docstring."""
    return rewrite(module, RULE)
