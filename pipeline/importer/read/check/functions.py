"""Checks of a model's own functions: none calls itself, and all calls written out are no more nodes than are meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from pipeline.errors import ModelError
from pipeline.importer.limits import MAX_NODES
from pipeline.importer.read.check.nodes import check_attribute
from pipeline.importer.read.check.walk import function_name, subgraphs

Key = tuple[str, str, str]
"""Domain, name and overload, by which nodes call a function."""


def functions_of(model: ModelProto) -> dict[Key, FunctionProto]:
    """Return a model's own functions.

    Raises:
        ModelError: two can't be told from each other, one has no name, or has attributes without sense.
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
    """Check how functions call each other.

    Raises:
        ModelError: one calls itself, directly or through others, or all calls together make too many nodes.
    """
    calls = {key: Counter(_key(node) for node in _all_nodes(function)) for key, function in functions.items()}
    sizes: dict[Key, int] = {}
    for key in functions:
        # A path of calls; a function is measured, and leaves it, once those that it calls are.
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
        raise ModelError(f"it has {size} nodes once its functions' calls are written out; the limit is {MAX_NODES}.")


def _size(calls: Counter[Key], sizes: Mapping[Key, int]) -> int:
    return sum(count * (1 + sizes.get(key, 0)) for key, count in calls.items())


def _all_nodes(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in body.node:
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph)


def _key(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload
