"""Checks of tensors' names: each is defined once, and read only where it is visible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import FunctionProto, GraphProto, ModelProto

from pipeline.errors import ModelError
from pipeline.importer.onnx_protos import function_name, node_title, opset_of
from pipeline.importer.read.check.contents import MAX_NESTING, Body, inner_bodies


def check_names(model: ModelProto) -> None:
    """Check all names of tensors in a model.

    Raises:
        ModelError: a tensor is defined twice, or read without being defined; a name isn't text; or graphs are nested
            too deep.
    """
    _check_body(Body(model.graph, "", opset_of(model)), ())
    for function in model.functions:
        place = f" in the function {function_name(function)!r}"
        _check_body(Body(function, place, opset_of(function), function), ())


def _check_body(body: Body, outer: Sequence[set[str]]) -> None:
    if body.depth > MAX_NESTING:
        raise ModelError(f"graphs are nested more than {MAX_NESTING} deep.")
    own = _defined_names(body)
    _check_text([body.proto.name], f"the graph{body.place}")
    visible = (*outer, own)
    for node in body.proto.node:
        _check_text([*node.input, node.name, node.op_type, node.domain], f"{node_title(node)}{body.place}")
        for name in node.input:
            if name and not _is_visible(visible, name):
                raise ModelError(f"{node_title(node)}{body.place} reads the tensor {name!r}, which nothing computes.")
    names = body.proto.output if isinstance(body.proto, FunctionProto) else [o.name for o in body.proto.output]
    _check_unique(names, "output", body.place)
    for name in names:
        if not _is_visible(visible, name):
            raise ModelError(f"nothing computes the output {name!r}{body.place}.")
    for inner in inner_bodies(body):
        _check_body(inner, visible)


def _is_visible(scopes: Iterable[set[str]], name: str) -> bool:
    return any(name in scope for scope in scopes)


def _defined_names(body: Body) -> set[str]:
    """Return the names that a graph or function defines, after checking that each is defined once."""
    if isinstance(body.proto, GraphProto):
        inputs = [i.name for i in body.proto.input]
        weights = [t.name for t in body.proto.initializer] + [s.values.name for s in body.proto.sparse_initializer]
    else:
        inputs, weights = list(body.proto.input), []
    _check_unique(inputs, "input", body.place)
    _check_unique(weights, "weight", body.place)
    # A weight with the name of an input is the input's default value.
    written = {*inputs, *weights}
    for node in body.proto.node:
        _check_text(node.output, f"{node_title(node)}{body.place}")
        for name in filter(None, node.output):
            if name in written:
                raise ModelError(
                    f"{node_title(node)}{body.place} computes the tensor {name!r}, which is defined already: another "
                    "node, an input or a weight has this name."
                )
            written.add(name)
    return written


def _check_unique(names: Sequence[str], kind: str, place: str) -> None:
    article = "a" if kind == "weight" else "an"
    _check_text(names, f"{article} {kind}{place}")
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"{article} {kind}{place} has no name.")
        if name in seen:
            raise ModelError(f"there are two {kind}s{place} called {name!r}.")
        seen.add(name)


def _check_text(names: Iterable[str], owner: str) -> None:
    # Protobuf returns bytes for a string that isn't valid UTF-8.
    if any(isinstance(name, bytes) for name in names):
        raise ModelError(f"{owner} has a name that isn't UTF-8 text. The file is damaged.")
