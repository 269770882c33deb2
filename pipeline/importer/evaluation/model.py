"""Evaluates a whole model on one sample, node by node, and stops before a node that would take too long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, helper, inliner, numpy_helper

from pipeline.importer.evaluation.node import FAILURES, estimated_seconds, run_node
from pipeline.importer.onnx_protos import attribute_of, captured_names, is_standard, opset_of, subgraphs
from pipeline.importer.opsets import MIN_OPSET, OldNode, upgrade

Array = npt.NDArray[Any]
Values = dict[str, Any]
"""Values of tensors by name: arrays, or lists of arrays for sequences."""


class EvaluationError(Exception):
    """A model can't be evaluated, or not in time; the message says why, as the end of a sentence."""


def evaluate_model(model: onnx.ModelProto, feeds: Mapping[str, Array], seconds: float) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of every tensor that a model computes, in order, except those inside subgraphs.

    Args:
        model: any ONNX model, as it was read.
        feeds: an array for each of its inputs.
        seconds: the time limit; before each node, its time is estimated.

    Raises:
        EvaluationError: a node can't be computed, or the evaluation would exceed the time limit.
    """
    plain = inliner.inline_local_functions(model) if model.functions else model
    evaluation = _Evaluation(plain, seconds)
    given = {i.name: feeds[i.name] for i in plain.graph.input if i.name in feeds}
    for name, value in evaluation.tensors(plain.graph, given):
        if isinstance(value, np.ndarray | np.generic):
            yield name, np.asarray(value)


class _Evaluation:
    def __init__(self, model: onnx.ModelProto, seconds: float) -> None:
        self.model = model
        self.opset = opset_of(model) or MIN_OPSET
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def tensors(self, graph: GraphProto, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the names and values of the tensors that a graph computes, in order.

        Args:
            graph: the graph.
            given: values of its inputs, and of the tensors of outer graphs that it reads.
        """
        values = {t.name: numpy_helper.to_array(t) for t in graph.initializer} | dict(given)
        last = {name: k for k, node in enumerate(graph.node) for name in _read(node)}
        for k, node in enumerate(graph.node):
            results = self._node(node, values)
            yield from results.items()
            values |= results
            for name in {*_read(node), *results}:
                if last.get(name, -1) <= k:
                    values.pop(name, None)

    def _subgraph(self, graph: GraphProto, values: Mapping[str, Any]) -> list[Any]:
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        computed = {**values, **constants, **dict(self.tensors(graph, {**values, **constants}))}
        return [computed[o.name] for o in graph.output]

    def _node(self, node: NodeProto, values: Mapping[str, Any]) -> Values:
        read = {name: values[name] for name in _read(node) if name in values}
        what = f"{node.op_type} {next(name for name in node.output if name)!r}"
        if time.monotonic() + estimated_seconds(node, read) > self.end:
            raise EvaluationError(f"it would take longer than {self.seconds:.0f} seconds (stopped at {what})")
        try:
            if node.op_type == "If":
                return self._if(node, read)
            if node.op_type == "Loop":
                return self._loop(node, read)
            return self._plain(node, read)
        except FAILURES as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EvaluationError(f"it can't compute {what}: {reason}") from error

    def _if(self, node: NodeProto, read: Values) -> Values:
        branch = attribute_of(node, "then_branch" if np.all(read[node.input[0]]) else "else_branch", None)
        return _named(node, self._subgraph(branch, read))

    def _loop(self, node: NodeProto, read: Values) -> Values:
        body: GraphProto = attribute_of(node, "body", None)
        limit, going, *carried = (read.get(name) for name in [*node.input, ""][: max(len(node.input), 2)])
        scanned: list[list[Array]] = [[] for _ in body.output[1 + len(carried) :]]
        turn = 0
        while (going is None or np.all(going)) and (limit is None or turn < limit):
            inner = [np.array(turn, "int64"), np.array(True), *carried]
            going, *results = self._subgraph(body, read | {i.name: v for i, v in zip(body.input, inner, strict=True)})
            carried, turn = results[: len(carried)], turn + 1
            for rows, row in zip(scanned, results[len(carried) :], strict=True):
                rows.append(row)
        return _named(node, [*carried, *map(np.stack, scanned)])

    def _plain(self, node: NodeProto, read: Values) -> Values:
        """Return the results of a node that has no subgraphs of its own to run.

        A node of an operator set before 13 is first rewritten as nodes of set 13, as the reference implementation lacks
        most of the old forms, and confuses some of them with the new ones.
        """
        if self.opset >= MIN_OPSET or not is_standard(node.domain):
            return run_node(node, read, self.model.opset_import, self.model.functions)
        known = dict(read)

        def new_name() -> str:
            return f"{node.output[0]}.{len(known)}.part"

        def constant(value: Array) -> str:
            name = new_name()
            known[name] = value
            return name

        def shape(name: str) -> tuple[int, ...] | None:
            return np.shape(known[name]) if name else None

        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for part in upgrade(OldNode(node, attributes, shape, known.get, constant, new_name), self.opset):
            known |= run_node(part, {n: known[n] for n in _read(part)}, [helper.make_opsetid("", MIN_OPSET)])
        return {name: known[name] for name in node.output if name in known}


def _named(node: NodeProto, results: Sequence[Any]) -> Values:
    return {name: value for name, value in zip(node.output, results, strict=False) if name}


def _read(node: NodeProto) -> set[str]:
    """Return the names of all tensors that a node and its subgraphs read."""
    return {name for name in node.input if name}.union(*(captured_names(g) for g in subgraphs(node)))
