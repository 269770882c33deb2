"""Relax's sorting operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.ir.operator import Array
from pipeline.ops.relax_operators.base import RelaxOperator, relax_names


class _Sorting(RelaxOperator):
    """Base of operators that sort along an axis; equal values stay in their order."""

    def order(self, x: Array, descending: bool) -> Array:
        """Return the indices of the values in sorted order."""
        return np.argsort(-x.astype("float64") if descending else x, axis=int(self.attribute("axis")), kind="stable")


class ArgSort(_Sorting):
    """The indices that sort a tensor."""

    names = relax_names("argsort")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the indices."""
        order = self.order(arguments[0], bool(self.attribute("descending")))
        return order.astype(str(self.attribute("dtype")))


class Sort(_Sorting):
    """A sorted tensor."""

    names = relax_names("sort")

    def evaluate(self, *arguments: Array) -> Array:
        """Return the values."""
        (x,) = arguments
        order = self.order(x, bool(self.attribute("descending")))
        return np.take_along_axis(x, order, int(self.attribute("axis")))


class TopK(_Sorting):
    """The k largest or least values in order, their indices, or both."""

    names = relax_names("topk")

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
