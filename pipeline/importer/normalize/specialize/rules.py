"""Rules by which specialization replaces nodes of certain operators, such as Shape, Identity, If or Loop.

Unlike constant folding, a rule may need no constant inputs: the results of Shape, for example, follow from a shape. A
rule returns the results of a node, or None if it doesn't apply. To add one, write a function, and add it to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Protocol

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.evaluation.node import evaluate
from pipeline.importer.normalize.specialize.tensors import Array, Scope, Tensor, TypeAndShape, dense, with_names
from pipeline.importer.onnx_protos import attribute_of, node_name
from pipeline.importer.opsets import MIN_OPSET


class Specializer(Protocol):
    """The methods of `SpecializedGraph` that rules use."""

    nodes: list[NodeProto]
    made: dict[tuple[object, ...], Sequence[Tensor | None]]
    constants: dict[str, Array]

    def constant(self, value: Array, name: str, dtype: int | None = None) -> Tensor:
        """Return a new constant."""

    def node(self, node: NodeProto, used: Set[str], scope: Scope, opset: int) -> Sequence[Tensor | None]:
        """Add the specialized form of a node, and return its results."""

    def subgraph(self, graph: GraphProto, scope: Scope, opset: int, inputs: Sequence[Tensor] = ()) -> list[Tensor]:
        """Add the nodes of a branch of an If, or of one iteration of a loop, and return its outputs."""

    def infer(self, call: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[TypeAndShape]:
        """Return the element type and shape of each result."""

    def emit(self, call: NodeProto, types: Sequence[TypeAndShape]) -> Sequence[Tensor | None]:
        """Add a node and return its results."""


Results = Sequence["Tensor | None"]
Rule = Callable[[Specializer, NodeProto, Results, Scope, int], "Results | None"]


def _constant_node(
    graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int
) -> Sequence[Tensor] | None:
    del inputs, scope
    (attribute,) = node.attribute
    if attribute.name == "value":
        return [graph.constant(numpy_helper.to_array(attribute.t), node.output[0], attribute.t.data_type)]
    if attribute.name == "sparse_value":
        return [graph.constant(dense(attribute.sparse_tensor), node.output[0])]
    values = evaluate(node, {}, opset)
    return None if values is None or values[0] is None else [graph.constant(values[0], node.output[0])]


def _shape(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Sequence[Tensor] | None:
    del scope, opset
    x = inputs[0]
    if x is None or x.shape is None:
        return None
    if node.op_type == "Size":
        return [graph.constant(np.array(int(np.prod(x.shape, dtype="int64")), "int64"), node.output[0])]
    begin, end = attribute_of(node, "start", 0), attribute_of(node, "end", len(x.shape))
    return [graph.constant(np.array(x.shape[begin:end], "int64"), node.output[0])]


def _identity(
    graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int
) -> Sequence[Tensor | None]:
    del graph, node, scope, opset
    return inputs[:1]


def _dropout(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """Dropout at inference returns its input, and a mask of ones.

    Raises:
        ModelError: the node is in training mode.
    """
    del scope, opset
    x, training = inputs[0], inputs[2] if len(inputs) > 2 else None
    if training is not None and (training.value is None or training.value.any()):
        raise ModelError(
            f"Dropout {node_name(node)!r} is in training mode, in which it drops values at random (training_mode is "
            "set). Export the model for inference: model.eval() in PyTorch."
        )
    if len(node.output) == 1 or x is None:
        return inputs[:1]
    if x.shape is None:
        return None
    return [x, graph.constant(np.ones(x.shape, "bool"), node.output[1])]


def _batch_normalization(
    graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int
) -> Results | None:
    """Refuse training mode, in which the statistics are those of each batch.

    Raises:
        ModelError: the node is in training mode.
    """
    del graph, inputs, scope, opset
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        raise ModelError(
            f"BatchNormalization {node_name(node)!r} is in training mode (training_mode is set). Export the model for "
            "inference: model.eval() in PyTorch."
        )
    return None


def _cast(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    del graph, scope, opset
    x = inputs[0]
    return inputs[:1] if x is not None and x.dtype == attribute_of(node, "to", 0) else None


def _cast_like(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    like = inputs[1]
    if like is None or not like.dtype:
        return None
    cast = helper.make_node("Cast", node.input[:1], node.output, node.name, to=like.dtype)
    return graph.node(cast, set(node.output), scope, opset)


def _reshaping(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """Reshaping to the same shape is removed; the target shape of any other Reshape becomes a constant."""
    del scope
    x = inputs[0]
    if x is None or x.shape is None:
        return None
    ((dtype, shape),) = graph.infer(with_names(node, inputs), inputs, opset)
    if shape is None:
        return None
    if shape == x.shape:
        return [x]
    if node.op_type != "Reshape" or x.value is not None:
        return None
    target = graph.constant(np.array(shape, "int64"), f"{node.output[0]}.shape")
    return graph.emit(helper.make_node("Reshape", [x.name, target.name], node.output, node.name), [(dtype, shape)])


def _slice(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    del scope
    x, steps = inputs[0], inputs[4] if len(inputs) > 4 else None
    forward = steps is None or (steps.value is not None and (steps.value > 0).all())
    if x is None or x.shape is None or not forward:
        return None
    ((_, shape),) = graph.infer(with_names(node, inputs), inputs, opset)
    return [x] if shape == x.shape else None


def _split(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """Splitting into one part is removed."""
    del scope
    x = inputs[0]
    if x is None or x.shape is None or len(node.output) > 1:
        return None
    ((_, shape),) = graph.infer(with_names(node, inputs), inputs, opset)
    return [x] if shape == x.shape else None


def _pad(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    del graph, node, scope, opset
    pads = inputs[1]
    return inputs[:1] if pads is not None and pads.value is not None and not pads.value.any() else None


def _concat(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """Parts without elements are left out of a concatenation; one of a single part is removed."""
    filled = [t for t in inputs if t is None or t.shape is None or 0 not in t.shape]
    if (len(filled) == len(inputs) and len(inputs) > 1) or not filled:
        return None
    if len(filled) == 1:
        return filled
    inner: Scope = scope | {t.name: t for t in filled if t is not None}
    shorter = helper.make_node("Concat", [t.name for t in filled if t is not None], node.output, node.name)
    shorter.attribute.extend(node.attribute)
    return graph.node(shorter, set(node.output), inner, opset)


def _compress(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """Compress with a constant condition becomes Gather."""
    x, chosen = inputs
    if x is None or x.shape is None or chosen is None or chosen.value is None:
        return None
    axis = attribute_of(node, "axis", None)
    count = int(np.prod(x.shape, dtype="int64")) if axis is None else x.shape[axis]
    inner: Scope = scope | {x.name: x}
    flat = helper.make_node("Reshape", [x.name, ""], [f"{node_name(node)}.flat"])
    if axis is None:
        shape = graph.constant(np.array([-1], "int64"), f"{node_name(node)}.shape")
        flat.input[1], inner[shape.name] = shape.name, shape
        (inner[flat.output[0]],) = graph.node(flat, set(flat.output), inner, opset)
    indices = graph.constant(np.flatnonzero(chosen.value.reshape(-1)[:count]), f"{node_name(node)}.indices")
    inner[indices.name] = indices
    source = flat.output[0] if axis is None else x.name
    gather = helper.make_node("Gather", [source, indices.name], node.output, node.name, axis=axis or 0)
    return graph.node(gather, set(node.output), inner, opset)


def _if(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    condition = inputs[0]
    if condition is None:
        return None
    if condition.value is None:
        return _selected(graph, node, condition, scope, opset)
    branch = attribute_of(node, "then_branch" if condition.value.any() else "else_branch", None)
    return graph.subgraph(branch, scope, opset)


def _selected(graph: Specializer, node: NodeProto, condition: Tensor, scope: Scope, opset: int) -> Results | None:
    """If with a condition that depends on the data becomes both branches, and Where, if their results are alike.

    That is possible as nothing but results comes of a branch, unless it divides integers: the condition may exclude a
    zero, and a division by it would end the process.
    """
    before = len(graph.nodes)
    try:
        then, other = (
            graph.subgraph(attribute_of(node, name, None), scope, opset) for name in ("then_branch", "else_branch")
        )
    except ModelError:
        # One that isn't for inputs of these shapes, and would never be taken.
        then = other = []
    known = {t.name: t.dtype for results in graph.made.values() for t in results if t is not None}
    may_fail = any(
        n.op_type in ("Div", "Mod") and known.get(n.output[0]) not in _FLOATS and not _divides(graph.constants, n)
        for n in graph.nodes[before:]
    )
    alike = [(t.dtype, t.shape) for t in then] == [(t.dtype, t.shape) for t in other]
    if not then or not alike or may_fail or any(not t.dtype or t.shape is None for t in then):
        del graph.nodes[before:]
        graph.made.clear()
        return None
    title = node_name(node)
    empty = graph.constant(np.array([], "int64"), f"{title}.scalar")
    inner: Scope = scope | {t.name: t for t in (condition, empty, *then, *other)}
    scalar = helper.make_node("Reshape", [condition.name, empty.name], [f"{title}.condition"])
    results: list[Tensor | None] = []
    (inner[scalar.output[0]],) = graph.node(scalar, set(scalar.output), inner, max(opset, MIN_OPSET))
    for a, b, name in zip(then, other, node.output, strict=True):
        chosen = helper.make_node("Where", [scalar.output[0], a.name, b.name], [name or f"{title}.unread"])
        results += graph.node(chosen, set(chosen.output), inner, max(opset, MIN_OPSET))
    return results


def _divides(constants: Mapping[str, Array], division: NodeProto) -> bool:
    """Return whether all integers can be divided by a division's divisor: the least one can't by -1, nor any by 0."""
    divisor = constants.get(division.input[1])
    return divisor is not None and not np.isin(divisor, (0, -1)).any()


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


_MAX_TURNS = 1024


def _loop(graph: Specializer, node: NodeProto, inputs: Results, scope: Scope, opset: int) -> Results | None:
    """A loop whose number of iterations is constant is unrolled.

    Raises:
        ModelError: it has too many iterations.
    """
    body: GraphProto = attribute_of(node, "body", None)
    limit, condition, *carried = inputs
    if any(t is not None and t.value is None for t in (limit, condition)) or any(t is None for t in carried):
        return None
    turns = _MAX_TURNS + 1 if limit is None or limit.value is None else int(limit.value.reshape(()))
    values = [t for t in carried if t is not None]
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.output) - 1 - len(values))]
    going = condition is None or (condition.value is not None and bool(condition.value.any()))
    before = len(graph.nodes)
    turn = 0
    while going and turn < turns:
        if turn == _MAX_TURNS:
            raise ModelError(f"Loop {node_name(node)!r} has more than {_MAX_TURNS} iterations, too many to unroll.")
        number = graph.constant(np.array(turn, "int64"), f"{node_name(node)}.turn")
        more, *results = graph.subgraph(body, scope, opset, [number, graph.constant(np.array(True), "going"), *values])
        if more.value is None:
            # The loop can't be unrolled: take back the nodes of the iterations so far.
            del graph.nodes[before:]
            graph.made.clear()
            return None
        going, turn = bool(more.value.any()), turn + 1
        values = results[: len(values)]
        for parts, part in zip(scanned, results[len(values) :], strict=True):
            parts.append(part)
    if not all(scanned):
        return None
    return [*values, *(_stacked(graph, parts, node_name(node), max(opset, MIN_OPSET)) for parts in scanned)]


def _stacked(graph: Specializer, parts: list[Tensor], title: str, opset: int) -> Tensor:
    scope: Scope = {"": None} | {t.name: t for t in parts}
    axis = graph.constant(np.array([0], "int64"), f"{title}.axis")
    scope[axis.name] = axis
    rows = []
    for k, part in enumerate(parts):
        row = helper.make_node("Unsqueeze", [part.name, axis.name], [f"{title}.row{k}"])
        (scope[row.output[0]],) = graph.node(row, set(row.output), scope, opset)
        rows.append(row.output[0])
    concat = helper.make_node("Concat", rows, [f"{title}.rows"], axis=0)
    (result,) = graph.node(concat, set(concat.output), scope, opset)
    if result is None:
        raise AssertionError("a concatenation has a result")
    return result


RULES: Mapping[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Compress": _compress,
    "Concat": _concat,
    "Constant": _constant_node,
    "Dropout": _dropout,
    "Expand": _reshaping,
    "Flatten": _reshaping,
    "Identity": _identity,
    "If": _if,
    "Loop": _loop,
    "Pad": _pad,
    "Reshape": _reshaping,
    "Shape": _shape,
    "Size": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshaping,
    "Tile": _reshaping,
    "Unsqueeze": _reshaping,
}
