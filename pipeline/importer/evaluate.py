"""Evaluates single ONNX nodes on constants, with ONNX's own reference implementation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]

MAX_ELEMENTS = 2**26
"""Larger results are left to the compiled program: they would be stored in the library."""

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_SLOW = frozenset(
    {"AveragePool", "Conv", "ConvTranspose", "DeformConv", "GridSample", "LpPool", "MaxPool", "MaxUnpool", "Resize"}
    | {"RoiAlign", "GRU", "LSTM", "RNN"}
)
_MAX_SLOW_ELEMENTS = 2**14
"""The reference implementation goes through these operators' results one by one."""


def is_foldable(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...] | None]) -> bool:
    """Return whether a node on constants may be computed at import.

    Args:
        node: the node.
        shapes: of its results, as far as they are known.
    """
    if node.op_type in _RANDOM:
        return False
    limit = _MAX_SLOW_ELEMENTS if node.op_type in _SLOW else MAX_ELEMENTS
    return all(shape is None or math.prod(shape) <= limit for shape in shapes)


def evaluate(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array] | None:
    """Return a node's results; None if one isn't a tensor, or if there is no reference implementation.

    Args:
        node: a node of ONNX's own operators, without subgraphs.
        inputs: its inputs' values; None where an optional one isn't given.
        opset: the operator set that it belongs to.
    """
    names = [f"i{k}" if value is not None else "" for k, value in enumerate(inputs)]
    outputs = [f"o{k}" if name else "" for k, name in enumerate(node.output)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    call = helper.make_node(node.op_type, names, outputs)
    call.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [call],
        "constants",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            results = iter(ReferenceEvaluator(model).run(None, given))
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            # Whatever it can't do with sound inputs, it says so in one of these; the compiled program has to do it.
            return None
    values = [next(results) if name else np.empty(0) for name in outputs]
    return values if all(isinstance(v, np.ndarray | np.generic) for v in values) else None
