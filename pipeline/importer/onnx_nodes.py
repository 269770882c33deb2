"""Reads ONNX nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, defs, helper


def title(node: NodeProto) -> str:
    """Return what a user calls a node: its name, or its first result's."""
    return str(node.name or next((o for o in node.output if o), node.op_type))


def live(nodes: Sequence[NodeProto], wanted: Iterable[str]) -> list[tuple[NodeProto, frozenset[str]]]:
    """Return the nodes that `wanted` rests on, in order, each with those of its outputs that are used."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        used = needed.intersection(node.output)
        if used:
            kept.append((node, frozenset(used)))
            needed.update(node.input, *(captured(g) for g in subgraphs(node)))
    return kept[::-1]


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs that a node holds."""
    found = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found + [g for a in node.attribute if a.type == AttributeProto.GRAPHS for g in a.graphs]


def captured(graph: GraphProto) -> set[str]:
    """Return the names that a subgraph reads; among them may be some that it defines itself."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input, *(captured(g) for g in subgraphs(node)))
    return names


def optional_outputs(node: NodeProto, opset: int) -> frozenset[int]:
    """Return which outputs a node may do without; how many parts a Split has, say, depends on how many are named."""
    if not defs.has(node.op_type, opset, ""):
        return frozenset()
    outputs = defs.get_schema(node.op_type, opset, "").outputs
    return frozenset(k for k, o in enumerate(outputs) if o.option == defs.OpSchema.FormalParameterOption.Optional)


def attribute_of(node: NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value, or the default if it isn't given."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def attribute_bytes(node: NodeProto) -> list[bytes]:
    """Return the attributes in a form that can be compared."""
    return sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
