"""Specialize: rewrites an ONNX model for fixed input shapes, with all shapes known and all constants folded.

Before -> after:

    Shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) becomes a constant.
    An `If` with a constant condition becomes the branch that is taken; with another one, it becomes both branches and
    a `Where`, if their results have the same shapes.
    A `Loop` with a constant number of iterations is unrolled.
    Calls of the model's own functions, and of operators that ONNX defines as functions, are inlined.
    Nodes of operator sets before 13 become nodes of set 13.
    Of equal nodes one is left; nodes that change nothing, and nodes that nothing reads, are removed.

Shapes come from ONNX's shape inference, and constants from its reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import onnx

from pipeline.importer.normalize.specialize.graph import SpecializedGraph
from pipeline.importer.onnx_protos import opset_of

__all__ = ["specialize"]


def specialize(model: onnx.ModelProto, convertible: Set[str], shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return an equivalent model of one graph; see the module's docstring.

    Args:
        model: a checked model; not changed.
        convertible: operators that have converters, and are kept; others are replaced by the function that defines
            them, if there is one.
        shapes: input name -> shape, for all inputs.

    Raises:
        ModelError: the graph isn't valid, or has too many nodes after loops and functions are expanded.
    """
    # A model whose graph only calls functions need not import ONNX's own operator set; its functions do.
    opset = opset_of(model) or max(opset_of(function) or 0 for function in model.functions)
    return SpecializedGraph(model, convertible, opset).run(shapes)
