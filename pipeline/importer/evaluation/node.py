"""Evaluates single nodes with ONNX's reference implementation, and estimates how long that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper

from pipeline.process_state import without_warnings

Array = npt.NDArray[Any]

MAX_ELEMENTS = 2**26
"""Largest result that is computed at import, in elements: it is stored in the library instead of computed there."""

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_LOOPS_IN_PYTHON = frozenset({"Col2Im", "DeformConv", "MaxUnpool", "RoiAlign"})
"""Operators whose results the reference implementation computes one by one, in a loop in Python."""

_MAX_ELEMENTS_IN_PYTHON = 2**14

FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions that the reference implementation raises if it can't compute something."""

_EVALUATED_AS = {"BatchNormalization": 15, "DequantizeLinear": 21, "QuantizeLinear": 21}
"""For some operators, the operator set from which on the reference implementation has a form for inference.

Nodes of earlier sets are evaluated as nodes of this one, which compute the same."""


def is_random(node: NodeProto) -> bool:
    """Return whether a node's results are random."""
    return node.op_type in _RANDOM


def is_foldable(node: NodeProto, shapes: Sequence[tuple[int, ...] | None]) -> bool:
    """Return whether a node whose inputs are constant may be computed at import: it isn't random or too large.

    Args:
        node: the node.
        shapes: the shapes of its results; None for an unknown one.
    """
    limit = _MAX_ELEMENTS_IN_PYTHON if node.op_type in _LOOPS_IN_PYTHON else MAX_ELEMENTS
    return not is_random(node) and all(shape is None or math.prod(shape) <= limit for shape in shapes)


def evaluate(node: NodeProto, values: Mapping[str, Array], opset: int) -> list[Array | None] | None:
    """Return a node's results, with None for outputs without a name; None if the node can't be evaluated.

    Args:
        node: a node of ONNX's own operators, without subgraphs.
        values: its inputs by name.
        opset: the version of the operator set that it belongs to.
    """
    try:
        results = run_node(node, values, [helper.make_opsetid("", opset)])
    except FAILURES:
        # The reference implementation lacks some forms of operators; the compiled program computes them instead.
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in results.values()):
        return None
    return [np.asarray(results[name]) if name else None for name in node.output]


def run_node(
    node: NodeProto,
    values: Mapping[str, Any],
    opsets: Sequence[onnx.OperatorSetIdProto],
    functions: Sequence[onnx.FunctionProto] = (),
) -> dict[str, Any]:
    """Return a node's results by name.

    Args:
        node: the node.
        values: what it reads, by name: arrays, and lists of arrays where they are sequences.
        opsets: the operator sets that the model imports.
        functions: the model's own functions, one of which the node may call.

    Raises:
        Exception: one of `FAILURES`, if the node can't be evaluated.
    """
    # Only here: it takes memory and time that most models don't need.
    from onnx.reference import ReferenceEvaluator

    from pipeline.importer.evaluation.operators import CORRECTED

    first = _EVALUATED_AS.get(node.op_type, 0)
    opsets = [helper.make_opsetid(o.domain, o.version if o.domain else max(o.version, first)) for o in opsets]
    outputs = [name for name in node.output if name]
    inputs = [_value_info(name, value) for name, value in values.items()]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    with without_warnings(), np.errstate(all="ignore"):
        return dict(
            zip(outputs, ReferenceEvaluator(model, new_ops=list(CORRECTED)).run(None, dict(values)), strict=True)
        )


def _value_info(name: str, value: Any) -> onnx.ValueInfoProto:
    if not isinstance(value, np.ndarray):
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def estimated_seconds(node: NodeProto, given: Mapping[str, Any]) -> float:
    """Return a rough estimate of how long `run_node` takes, in seconds; 0 for operators that are always quick.

    Args:
        node: the node.
        given: values of the tensors that it reads, by name.
    """
    arrays = [value for value in map(given.get, node.input) if isinstance(value, np.ndarray)]
    estimate = _SECONDS.get(node.op_type)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    try:
        return 0.0 if estimate is None else float(estimate(arrays, attributes))
    except (IndexError, ValueError, ZeroDivisionError):
        # An invalid node, which lacks inputs or axes, or one without elements ends at once.
        return 0.0


def _convolution(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> float:
    x, weight = (a.shape for a in arrays[:2])
    seconds_per_multiply_add = 4e-8 if attributes.get("group", 1) > 1 else 1e-9
    return float(seconds_per_multiply_add * x[0] * math.prod(x[2:]) * math.prod(weight))


def _roi_align(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> float:
    x, regions = arrays[:2]
    parts = np.array([attributes.get(name, 1) for name in ("output_width", "output_height")], "float64")
    ratio = attributes.get("sampling_ratio", 0)
    # Without a sampling ratio, there is about one sample for each pixel.
    sides = np.abs(regions[:, 2:] - regions[:, :2]) * attributes.get("spatial_scale", 1.0) / parts
    samples = len(regions) * ratio**2 if ratio else np.prod(np.ceil(sides) + 1, axis=1, dtype="float64").sum()
    return float(1e-5 * x.shape[1] * np.prod(parts) * samples)


_SECONDS: Mapping[str, Callable[[Sequence[Array], Mapping[str, Any]], float]] = {
    "Col2Im": lambda arrays, _: 1e-5 * arrays[0].size,
    "Conv": _convolution,
    "ConvTranspose": lambda arrays, _: 2e-9 * arrays[0].size / arrays[0].shape[1] * arrays[1].size,
    "DeformConv": lambda arrays, _: 2e-4 * arrays[2].size / arrays[2].shape[1] * arrays[1].size,
    "GridSample": lambda arrays, _: 3e-7 * arrays[0].shape[1] * arrays[1].size,
    "MatMul": lambda arrays, _: 1e-9 * arrays[0].size * arrays[1].shape[-1],
    "MaxUnpool": lambda arrays, _: 1e-5 * arrays[0].size,
    "RoiAlign": _roi_align,
}
"""Estimates in seconds, from the inputs and the attributes; measured on one machine, and rounded up."""
