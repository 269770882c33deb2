"""Converters of reductions, such as ReduceSum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from pipeline.errors import ModelError
from pipeline.importer.frontend.converters.node import Convert, Node


def converter(function: Callable[..., Any]) -> Convert:
    """Return the converter of a reduction, given Relax's function for it."""

    def convert(node: Node) -> relax.Expr:
        """Reduce the given axes; without any, all axes, or none with `noop_with_empty_axes`."""
        axes = _axes(node)
        if not axes:
            return node.x
        if any(node.shape[a] == 0 for a in axes) and function not in (relax.op.sum, relax.op.prod):
            raise ModelError("it reduces an axis without elements, for which it isn't defined")
        keepdims = node.flag("keepdims", 1)
        if node.dtype != "bool":
            return function(node.x, axes, keepdims)
        numbers = node.emit(relax.op.astype(node.x, "int32"))
        return relax.op.astype(node.emit(function(numbers, axes, keepdims)), "bool")

    return convert


def _axes(node: Node) -> list[int]:
    given = node.checked_constant(1, "its axes")
    listed = node.integers("axes", ()) if given is None else tuple(int(a) for a in given.reshape(-1))
    if listed:
        return sorted({node.normalized_axis(a) for a in listed})
    return [] if node.flag("noop_with_empty_axes") else list(range(len(node.shape)))
