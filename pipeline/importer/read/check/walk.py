"""Goes through all that a model holds: its graph, its functions, and the graphs inside their nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

MAX_NESTING = 32
"""How deep graphs may lie in graphs. A protobuf file can't hold more; a model built in memory can."""


@dataclass(frozen=True)
class Body:
    """A list of nodes.

    Attributes:
        proto: the graph or function.
        place: for messages: empty for the model's graph, otherwise such as " in then_branch of If 'y'".
        opset: version of ONNX's own operators that the nodes are of; None if there is none.
        function: the function that it is, or lies in, if any.
        depth: of nesting; 0 for the model's graph and for functions.
    """

    proto: GraphProto | FunctionProto
    place: str
    opset: int | None
    function: FunctionProto | None = None
    depth: int = 0


def bodies(model: ModelProto) -> Iterator[Body]:
    """Yield the model's graph, then its functions, each followed by the graphs within it."""
    yield from _with_inner(Body(model.graph, "", opset_of(model)))
    for function in model.functions:
        place = f" in the function {function_name(function)!r}"
        yield from _with_inner(Body(function, place, opset_of(function), function))


def inner_bodies(body: Body) -> Iterator[Body]:
    """Yield the graphs directly within a body."""
    for node in body.proto.node:
        for attribute in node.attribute:
            for graph in graphs_of(attribute):
                place = f" in {attribute.name} of {title(node)}{body.place}"
                yield Body(graph, place, body.opset, body.function, body.depth + 1)
    if isinstance(body.proto, FunctionProto):
        for attribute in body.proto.attribute_proto:
            for graph in graphs_of(attribute):
                place = f" in attribute {attribute.name!r}{body.place}"
                yield Body(graph, place, body.opset, body.function, body.depth + 1)


def _with_inner(body: Body) -> Iterator[Body]:
    yield body
    for inner in inner_bodies(body):
        yield from _with_inner(inner)


def graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    """Return the graphs in an attribute."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs in a node's attributes."""
    return [graph for attribute in node.attribute for graph in graphs_of(attribute)]


def title(node: NodeProto) -> str:
    """Return what a user calls a node: its operator, and its name or its first result's."""
    name = node.name or next((o for o in node.output if o), "")
    return f"{node.op_type} {name!r}" if name else node.op_type


def function_name(function: FunctionProto) -> str:
    """Return a function's full name."""
    # A damaged file has bytes here.
    return ".".join(str(part) for part in (function.domain, function.name, function.overload) if part)


def opset_of(owner: ModelProto | FunctionProto) -> int | None:
    """Return the version of ONNX's own operators that a model or function imports; None if there is none."""
    return max((o.version for o in owner.opset_import if is_standard(o.domain)), default=None)


def is_standard(domain: str) -> bool:
    """Return whether a domain is ONNX's own."""
    return domain in ("", "ai.onnx")


def tensors(model: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    """Yield every tensor that a model holds, with what a message calls it."""
    for body in bodies(model):
        if isinstance(body.proto, GraphProto):
            for tensor in body.proto.initializer:
                yield tensor, f"weight {tensor.name!r}{body.place}"
            for sparse in body.proto.sparse_initializer:
                for part in (sparse.values, sparse.indices):
                    yield part, f"sparse weight {sparse.values.name!r}{body.place}"
        else:
            for attribute in body.proto.attribute_proto:
                for tensor in _tensors_of(attribute):
                    yield tensor, f"attribute {attribute.name!r}{body.place}"
        for node in body.proto.node:
            for attribute in node.attribute:
                for tensor in _tensors_of(attribute):
                    yield tensor, f"attribute {attribute.name!r} of {title(node)}{body.place}"


def _tensors_of(attribute: AttributeProto) -> list[TensorProto]:
    sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]
    own = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    return own + [part for s in sparse for part in (s.values, s.indices)]
