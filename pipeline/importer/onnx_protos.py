"""Helpers that read ONNX messages: nodes, graphs, functions and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, defs, helper


def node_name(node: NodeProto) -> str:
    """Return the name by which users know a node: its own, or else that of its first output."""
    return str(node.name or next((o for o in node.output if o), node.op_type))


def node_title(node: NodeProto) -> str:
    """Return a node's operator and name for messages, for example `Conv 'features.0'`."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{node.op_type} {name!r}" if name else node.op_type


def function_name(function: FunctionProto) -> str:
    """Return a function's full name: its domain, name and overload."""
    # In a damaged file these may be bytes.
    return ".".join(str(part) for part in (function.domain, function.name, function.overload) if part)


def is_standard(domain: str) -> bool:
    """Return whether a domain is that of ONNX's own operators."""
    return domain in ("", "ai.onnx")


def opset_of(owner: ModelProto | FunctionProto) -> int | None:
    """Return the version of ONNX's own operator set that a model or function imports; None if it imports none."""
    return max((o.version for o in owner.opset_import if is_standard(o.domain)), default=None)


def attribute_of(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute, or the default if the node doesn't have it."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def attribute_bytes(node: NodeProto) -> list[bytes]:
    """Return a node's attributes as sorted bytes, equal for nodes with equal attributes."""
    return sorted(a.SerializeToString(deterministic=True) for a in node.attribute)


def graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs in an attribute."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs in a node's attributes, such as the branches of an If."""
    return [graph for attribute in node.attribute for graph in graphs_of(attribute)]


def captured_names(graph: GraphProto) -> set[str]:
    """Return all names that a subgraph's nodes and outputs read, those that it defines itself included."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input, *(captured_names(g) for g in subgraphs(node)))
    return names


def live_nodes(nodes: Sequence[NodeProto], wanted: Iterable[str]) -> list[tuple[NodeProto, frozenset[str]]]:
    """Return the nodes that the tensors `wanted` depend on, in order, each with those of its outputs that are used."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        used = needed.intersection(node.output)
        if used:
            kept.append((node, frozenset(used)))
            needed.update(node.input, *(captured_names(g) for g in subgraphs(node)))
    return kept[::-1]


def optional_outputs(node: NodeProto, opset: int) -> frozenset[int]:
    """Return the indices of the outputs that a node may leave out without changing what the others are.

    The outputs of a Split, for example, aren't among them: their number decides the sizes of the parts.
    """
    if not defs.has(node.op_type, opset, ""):
        return frozenset()
    outputs = defs.get_schema(node.op_type, opset, "").outputs
    return frozenset(k for k, o in enumerate(outputs) if o.option == defs.OpSchema.FormalParameterOption.Optional)
