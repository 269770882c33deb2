"""Checks of a model's own functions: none calls itself, and there aren't too many nodes once calls are inlined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from pipeline.errors import ModelError
from pipeline.importer.limits import MAX_NODES
from pipeline.importer.onnx_protos import function_name, subgraphs
from pipeline.importer.read.check.nodes import check_attribute

Key = tuple[str, str, str]
"""Domain, name and overload, by which nodes call a function."""


def functions_of(model: ModelProto) -> dict[Key, FunctionProto]:
    """Return a model's own functions, after checking their names and attributes.

    Raises:
        ModelError: two functions have the same name, or one has no name or an invalid attribute.
    """
    found: dict[Key, FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if not function.name or any(isinstance(part, bytes) for part in key):
            raise ModelError("a function has no name, or one that isn't UTF-8 text.")
        if key in found:
            raise ModelError(f"there are two functions called {function_name(function)!r}.")
        found[key] = function
        for attribute in function.attribute_proto:
            check_attribute(attribute, f"the function {function_name(function)!r}", None)
    return found


def check_calls(model: ModelProto, functions: Mapping[Key, FunctionProto]) -> None:
    """Check the calls of functions.

    Raises:
        ModelError: a function calls itself, directly or through others, or inlining all calls makes too many nodes.
    """
    calls = {key: Counter(_key(node) for node in _all_nodes(function)) for key, function in functions.items()}
    sizes: dict[Key, int] = {}
    for key in functions:
        # A depth-first search: `path` is a chain of calls. A function's size is known once those of its callees are.
        path = [key]
        while path:
            unknown = sorted(calls[path[-1]].keys() & functions.keys() - sizes.keys())
            if not unknown:
                done = path.pop()
                sizes[done] = _size(calls[done], sizes)
            elif unknown[0] in path:
                name = function_name(functions[unknown[0]])
                raise ModelError(f"the function {name!r} calls itself, directly or through others.")
            else:
                path.append(unknown[0])
    size = _size(Counter(_key(node) for node in _all_nodes(model.graph)), sizes)
    if functions and size > MAX_NODES:
        raise ModelError(f"it has {size} nodes once its functions are inlined; the limit is {MAX_NODES}.")


def _size(calls: Counter[Key], sizes: Mapping[Key, int]) -> int:
    return sum(count * (1 + sizes.get(key, 0)) for key, count in calls.items())


def _all_nodes(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in body.node:
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph)


def _key(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload
