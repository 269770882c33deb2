"""Sorts nodes topologically, as ONNX requires: each after the nodes whose results it reads."""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from pipeline.errors import ModelError
from pipeline.importer.onnx_protos import node_title, subgraphs
from pipeline.importer.read.check.contents import Body, bodies


def with_sorted_nodes(model: ModelProto) -> ModelProto:
    """Return the model with its nodes sorted topologically: the model itself if they are, otherwise a copy.

    Args:
        model: a model whose names have been checked.

    Raises:
        ModelError: nodes read each other's results in a cycle.
    """
    if all(_is_sorted(_dependencies(body.proto.node)) for body in bodies(model)):
        return model
    ordered = ModelProto()
    ordered.CopyFrom(model)
    # Inner graphs are sorted first, as sorting an outer graph copies its nodes with the graphs in them.
    for body in reversed(list(bodies(ordered))):
        _sort(body)
    return ordered


def _dependencies(nodes: Sequence[NodeProto]) -> list[set[int]]:
    """Return for each node the indices of the nodes whose results it reads."""
    writers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    return [{writers[name] for name in _read(node) if name in writers} for node in nodes]


def _read(node: NodeProto) -> Set[str]:
    """Return the names that a node reads, including those that its subgraphs read from outside of them."""
    return {*node.input}.union(*(_captured(graph) for graph in subgraphs(node)))


def _captured(graph: GraphProto) -> Set[str]:
    read = {o.name for o in graph.output}.union(*(_read(node) for node in graph.node))
    own = {name for node in graph.node for name in node.output}
    own |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
    return read - own - {s.values.name for s in graph.sparse_initializer}


def _is_sorted(dependencies: Sequence[Set[int]]) -> bool:
    return all(before < i for i, own in enumerate(dependencies) for before in own)


def _sort(body: Body) -> None:
    nodes: GraphProto | FunctionProto = body.proto
    dependencies = _dependencies(nodes.node)
    if _is_sorted(dependencies):
        return
    missing = [len(own) for own in dependencies]
    readers: list[list[int]] = [[] for _ in dependencies]
    for i, own in enumerate(dependencies):
        for before in own:
            readers[before].append(i)
    # Of the nodes that are ready, take the first one in the file, to change the order as little as possible.
    ready = [i for i, count in enumerate(missing) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(missing):
        cycle = ", ".join(node_title(nodes.node[i]) for i in _cycle(dependencies, set(order)))
        raise ModelError(f"nodes read each other's results in a cycle{body.place}: {cycle}.")
    copies = []
    for i in order:
        copies.append(NodeProto())
        copies[-1].CopyFrom(nodes.node[i])
    del nodes.node[:]
    nodes.node.extend(copies)


def _cycle(dependencies: Sequence[Set[int]], done: Set[int]) -> list[int]:
    """Return at most five nodes of a cycle, each of which reads from the next one."""
    path = [next(i for i in range(len(dependencies)) if i not in done)]
    while path[-1] not in path[:-1]:
        path.append(min(dependencies[path[-1]] - done))
    return path[path.index(path[-1]) : -1][:5]
