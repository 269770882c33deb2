"""Evaluates ONNX with its own reference implementation: single nodes on constants, and whole models for one sample."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.importer.opsets import MIN_OPSET, OldNode, upgrade
from pipeline.importer.reference_operators import CORRECTED

Array = npt.NDArray[Any]

MAX_ELEMENTS = 2**26
"""Larger results are left to the compiled program: they would be stored in the library."""

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_LOOPS_IN_PYTHON = frozenset(
    {"ConvTranspose", "DeformConv", "GridSample", "GRU", "LSTM", "MaxUnpool", "RNN", "RoiAlign"}
)
"""Operators whose results the reference implementation goes through one by one."""

_SECONDS_IN_PYTHON = 2e-5
_SECONDS_PER_MULTIPLY_ADD = 1e-9
_SECONDS_PER_MULTIPLY_ADD_IN_GROUPS = 4e-8
"""What the reference implementation takes, roughly, for an element or a multiply-add."""

_MAX_ELEMENTS_IN_PYTHON = 2**14

_EVALUATED_AS = {"BatchNormalization": 15, "DequantizeLinear": 21, "QuantizeLinear": 21}
"""Operators that the reference implementation lacks, or has for training only, before the given operator set.

At inference the later form computes the same."""


class CannotEvaluate(Exception):
    """A model can't be evaluated, or not in time; the message says why."""


def is_random(node: NodeProto) -> bool:
    """Return whether a node gives other results each time."""
    return node.op_type in _RANDOM


def is_foldable(node: NodeProto, shapes: Sequence[tuple[int, ...] | None]) -> bool:
    """Return whether a node on constants may be computed at import.

    Args:
        node: the node.
        shapes: of its results, as far as they are known.
    """
    limit = _MAX_ELEMENTS_IN_PYTHON if node.op_type in _LOOPS_IN_PYTHON else MAX_ELEMENTS
    return not is_random(node) and all(shape is None or math.prod(shape) <= limit for shape in shapes)


def evaluate(node: NodeProto, values: Mapping[str, Array], opset: int) -> list[Array | None] | None:
    """Return a node's results, None for those without a name; None if it can't be computed here.

    Args:
        node: a node of ONNX's own operators, without subgraphs.
        values: its inputs by name.
        opset: the operator set that it belongs to.
    """
    try:
        results = _run(node, values, [helper.make_opsetid("", opset)], ())
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        # The reference implementation lacks parts of some operators; what it can't do, the compiled program must.
        return None
    if not all(isinstance(value, np.ndarray | np.generic) for value in results.values()):
        return None
    return [np.asarray(results[name]) if name else None for name in node.output]


def evaluate_graph(model: onnx.ModelProto, feeds: Mapping[str, Array], seconds: float) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every tensor that a model computes, in order.

    Args:
        model: any ONNX model, as it was read.
        feeds: an array for each of its inputs.
        seconds: how long it may take; the time of the next node is estimated before it is begun.

    Raises:
        CannotEvaluate: a node can't be computed, or it would take too long.
    """
    end = time.monotonic() + seconds
    values: dict[str, Any] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values |= {i.name: feeds[i.name] for i in model.graph.input if i.name in feeds}
    nodes = model.graph.node
    last = {name: k for k, node in enumerate(nodes) for name in _read(node)}
    for k, node in enumerate(nodes):
        given = {name: values[name] for name in _read(node) if name in values}
        if time.monotonic() + _estimated_seconds(node, given) > end:
            raise CannotEvaluate(
                f"it would take longer than {seconds:.0f} seconds (stopped at {node.op_type} {node.output[0]!r}, node "
                f"{k + 1} of {len(nodes)})"
            )
        try:
            results = _run_old(node, given, model)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CannotEvaluate(f"it can't compute {node.op_type} {node.output[0]!r}: {reason}") from error
        values |= results
        yield from ((name, np.asarray(v)) for name, v in results.items() if not isinstance(v, list))
        for name in {*given, *results}:
            if last.get(name, -1) <= k:
                values.pop(name, None)


def _run_old(node: NodeProto, values: Mapping[str, Any], model: onnx.ModelProto) -> dict[str, Any]:
    """Return the results of a node, which is written as those of set 13 first if it belongs to an older one.

    The reference implementation has few of the old forms, and takes some for the newer ones.
    """
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=MIN_OPSET)
    if opset >= MIN_OPSET or node.domain not in ("", "ai.onnx"):
        return _run(node, values, model.opset_import, model.functions)
    known = dict(values)

    def new_name() -> str:
        return f"{node.output[0]}.{len(known)}.part"

    def constant(value: Array) -> str:
        name = new_name()
        known[name] = value
        return name

    def shape(name: str) -> tuple[int, ...] | None:
        return np.shape(known[name]) if name else None

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for part in upgrade(OldNode(node, attributes, shape, known.get, constant, new_name), opset):
        known |= _run(part, {n: known[n] for n in _read(part)}, [helper.make_opsetid("", MIN_OPSET)], ())
    return {name: known[name] for name in node.output if name in known}


def _run(
    node: NodeProto,
    values: Mapping[str, Any],
    opsets: Sequence[onnx.OperatorSetIdProto],
    functions: Sequence[onnx.FunctionProto],
) -> dict[str, Any]:
    first = _EVALUATED_AS.get(node.op_type, 0)
    opsets = [helper.make_opsetid(o.domain, o.version if o.domain else max(o.version, first)) for o in opsets]
    outputs = [name for name in node.output if name]
    inputs = [_value_info(name, value) for name, value in values.items()]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=opsets, functions=functions)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return dict(
            zip(outputs, ReferenceEvaluator(model, new_ops=list(CORRECTED)).run(None, dict(values)), strict=True)
        )


def _value_info(name: str, value: Any) -> onnx.ValueInfoProto:
    if not isinstance(value, np.ndarray):
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _read(node: NodeProto) -> set[str]:
    """Return the names that a node and its subgraphs read."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        graphs: list[GraphProto] = [attribute.g] if attribute.type == AttributeProto.GRAPH else [*attribute.graphs]
        for graph in graphs:
            names |= {o.name for o in graph.output}.union(*(_read(n) for n in graph.node))
    return names


def _estimated_seconds(node: NodeProto, given: Mapping[str, Any]) -> float:
    sizes = [np.shape(given[name]) for name in node.input if name in given]
    if not sizes:
        return 0.0
    if node.op_type == "Conv" and len(sizes) > 1:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        each = _SECONDS_PER_MULTIPLY_ADD_IN_GROUPS if groups > 1 else _SECONDS_PER_MULTIPLY_ADD
        return float(each * math.prod(sizes[0][2:]) * math.prod(sizes[1]))
    if node.op_type in _LOOPS_IN_PYTHON:
        return float(_SECONDS_IN_PYTHON * math.prod(sizes[0]))
    return 0.0
