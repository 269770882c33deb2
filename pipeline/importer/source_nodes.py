"""Where the model's nodes went: which operators of the imported program compute them.

A node's result is a variable of the program under the same name, or it is on the way to one: a `Conv` whose `Relu` is
fused into it goes by the name of the `Relu`'s output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import onnx
import tvm

from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import SourceNode


def source_nodes(model: onnx.ModelProto, module: tvm.IRModule) -> tuple[SourceNode, ...]:
    """Return the model's nodes that compute something from its inputs, each with the operators that it became.

    Args:
        model: as it was read. The nodes of branches, loops and functions aren't among its nodes; those that hold or
            call them are.
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
        found.append(SourceNode(node.name, node.op_type, outputs, _became(outputs, variables, readers)))
    return tuple(found)


def _became(
    outputs: tuple[str, ...], variables: Set[str], readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[str, ...]:
    """Return the first variables on all ways from a node's outputs, the outputs included."""
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
    """Yield the names that a node reads, those that its branches and loops read of the graph around them included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _read(inner)
