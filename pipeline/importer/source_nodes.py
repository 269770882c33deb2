"""Finds the variables of an imported program that hold the results of the model's nodes.

A node's result is a variable of the same name, or, if the node was fused into a later one, a variable with the name of
the later one's output: a `Conv` with a fused `Relu` has the name of the `Relu`'s output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import onnx
import tvm

from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import SourceNode


def source_nodes(model: onnx.ModelProto, module: tvm.IRModule) -> tuple[SourceNode, ...]:
    """Return the model's nodes whose results depend on its inputs, with the variables that they became.

    Args:
        model: the model, as it was read. Nodes inside branches, loops and functions aren't returned, but the nodes
            that contain or call them are.
        module: the imported program.
    """
    variables = {b.var.name for b in Dataflow.of(module).bindings}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in set(_read(node)):
            readers.setdefault(name, []).append(node)
    weights = {t.name for t in model.graph.initializer}
    computed = {i.name for i in model.graph.input if i.name not in weights}
    found = []
    for node in model.graph.node:
        if computed.isdisjoint(_read(node)):
            continue
        outputs = tuple(name for name in node.output if name)
        computed.update(outputs)
        found.append(SourceNode(node.name, node.op_type, outputs, _first_variables(outputs, variables, readers)))
    return tuple(found)


def _first_variables(
    outputs: tuple[str, ...], variables: Set[str], readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[str, ...]:
    """Return, for each of a node's outputs, its variable, or the first variables that are computed from it.

    Args:
        outputs: names of the node's outputs.
        variables: names of the program's variables.
        readers: the nodes that read each tensor.
    """
    found: dict[str, None] = {}
    pending, seen = list(outputs), set(outputs)
    while pending:
        name = pending.pop(0)
        if name in variables:
            found[name] = None
            continue
        following = [o for node in readers.get(name, ()) for o in node.output if o not in seen]
        seen.update(following)
        pending += following
    return tuple(found)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, including those that its subgraphs read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
