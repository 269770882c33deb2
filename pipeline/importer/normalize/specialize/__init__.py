"""Specialize: an ONNX graph for fixed input shapes, in which every shape is known and every constant is computed.

Before -> after: shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) becomes the constant that it gives; an `If`
whose condition is constant becomes the branch that is taken, and a `Loop` with a constant number of turns those turns;
calls of the model's own functions, and of operators that only exist as functions of others, become the functions'
nodes; nodes of operator sets before 13 are written as those of 13; equal nodes become one, nodes that change nothing
and nodes that nothing reads go.

Only the model and the package `onnx` have a say: shapes come from the operators' own inference, constants from their
reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import onnx

from pipeline.importer.normalize.specialize.graph import SpecializedGraph
from pipeline.importer.read.check.walk import opset_of

__all__ = ["specialize"]


def specialize(model: onnx.ModelProto, native: Set[str], shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return an equivalent model of one graph; see the module's docstring.

    Args:
        model: a checked model; not changed.
        native: operators that are kept; others are replaced by the function that defines them, if there is one.
        shapes: input name -> shape, for all inputs.

    Raises:
        ModelError: the graph isn't valid, or grows beyond all bounds.
    """
    # A graph of nothing but calls needs no operators of ONNX's own; its functions do.
    opset = opset_of(model) or max(opset_of(function) or 0 for function in model.functions)
    return SpecializedGraph(model, native, opset).run(shapes)
