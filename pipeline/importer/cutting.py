"""Cuts a model: it ends at some of its inner tensors, and what only comes after them is left out.

Detectors, for example, often end in a NonMaxSuppression, whose number of results depends on the data. Such a model can
be compiled up to there, and the rest applied to the outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from pipeline.errors import OptionError, unknown_name
from pipeline.importer.onnx_protos import captured_names, live_nodes, node_name, subgraphs

MAX_PROPOSED = 8
"""Most tensors at which an error proposes to cut a model; more would be no help."""


def cuttable(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors at which a model can be cut: the results of its nodes, those in branches not."""
    return {name for node in graph.node for name in node.output if name}


def cut(model: onnx.ModelProto, ends: Sequence[str]) -> None:
    """Make some tensors the outputs of a model, in place, without the nodes and inputs that these don't depend on.

    Args:
        model: a checked model.
        ends: names of the tensors, in the order of the outputs.

    Raises:
        OptionError: there is no such tensor, or none of them depends on an input.
    """
    graph, ends, known = model.graph, list(dict.fromkeys(ends)), cuttable(model.graph)
    for name in ends:
        if name not in known:
            raise OptionError(unknown_name("tensor to cut the model at", name, known))
    declared = {value.name: value for value in (*graph.value_info, *graph.output)}
    outputs = [declared.get(name, onnx.ValueInfoProto(name=name)) for name in ends]
    nodes = [node for node, _ in live_nodes(graph.node, ends)]
    read = set().union(*map(_read, nodes))
    inputs = [value for value in graph.input if value.name in read]
    if not {value.name for value in inputs}.difference(tensor.name for tensor in graph.initializer):
        raise OptionError(
            f"The model can't be cut at {', '.join(map(repr, ends))}: that depends on none of its inputs."
        )
    for field, kept in ((graph.output, outputs), (graph.node, nodes), (graph.input, inputs)):
        copies = [type(message).FromString(message.SerializeToString()) for message in kept]
        del field[:]
        field.extend(copies)


def ends_before(graph: onnx.GraphProto, refused: Collection[str]) -> list[str]:
    """Return the tensors at which a model can be cut so that it has no refused node.

    These are all that the refused nodes, and those after them, read of the rest, and the outputs in the rest.

    Args:
        graph: a graph with sorted nodes.
        refused: names of nodes, as `onnx_protos.node_name` has them.
    """
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    computed, lost = set[str](), set[str]()
    ends: dict[str, None] = {}
    for node in graph.node:
        read = _read(node)
        if node_name(node) in refused or not lost.isdisjoint(read):
            lost.update(node.output)
            ends.update(dict.fromkeys(name for name in read if name in computed))
        elif not (inputs.isdisjoint(read) and computed.isdisjoint(read)):
            computed.update(node.output)
    ends.update(dict.fromkeys(value.name for value in graph.output if value.name in computed))
    return list(ends)


def _read(node: onnx.NodeProto) -> list[str]:
    """Return what a node and the graphs in it read, in order."""
    inner = sorted(set().union(*map(captured_names, subgraphs(node))))
    return [name for name in (*node.input, *inner) if name]
