"""What a model contains: its graphs and functions at every depth, and all stored tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from pipeline.importer.onnx_protos import function_name, graphs_of, node_title, opset_of

MAX_NESTING = 32
"""Deepest nesting of graphs. Protobuf files can't exceed it; models built in memory can."""


@dataclass(frozen=True)
class Body:
    """A graph or function: what has a list of nodes.

    Attributes:
        proto: the graph or function.
        place: where it is, for messages: empty for the model's graph, otherwise such as " in then_branch of If 'y'".
        opset: version of ONNX's own operator set that the nodes belong to; None if it isn't imported.
        function: the function that this is, or is nested in; None outside of functions.
        depth: depth of nesting; 0 for the model's graph and for functions.
    """

    proto: GraphProto | FunctionProto
    place: str
    opset: int | None
    function: FunctionProto | None = None
    depth: int = 0


def bodies(model: ModelProto) -> Iterator[Body]:
    """Yield the model's graph, then its functions, each followed by the graphs nested in it."""
    yield from _with_inner(Body(model.graph, "", opset_of(model)))
    for function in model.functions:
        place = f" in the function {function_name(function)!r}"
        yield from _with_inner(Body(function, place, opset_of(function), function))


def inner_bodies(body: Body) -> Iterator[Body]:
    """Yield the graphs that are nested directly in a body."""
    for node in body.proto.node:
        for attribute in node.attribute:
            for graph in graphs_of(attribute):
                place = f" in {attribute.name} of {node_title(node)}{body.place}"
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


def stored_tensors(model: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    """Yield every tensor that is stored in a model, each with what messages call it."""
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
                    yield tensor, f"attribute {attribute.name!r} of {node_title(node)}{body.place}"


def _tensors_of(attribute: AttributeProto) -> list[TensorProto]:
    sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []), *attribute.sparse_tensors]
    own = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    return own + [part for s in sparse for part in (s.values, s.indices)]
