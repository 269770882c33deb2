"""Specialize: an ONNX graph for fixed input shapes, in which every shape is known and every constant is computed.

Before -> after: shape arithmetic (`Shape -> Gather -> Concat -> Reshape`) becomes the constant that it gives; an `If`
whose condition is constant becomes the branch that is taken, and a `Loop` with a constant number of turns those turns;
calls of the model's own functions, and of operators that only exist as functions of others, become the functions'
nodes; nodes of operator sets before 13 are written as those of 13; equal nodes become one, nodes that change nothing
and nodes that nothing reads go.

Only the model and the package `onnx` have a say: shapes come from the operators' own inference, constants from their
reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    TypeProto,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from pipeline.errors import ModelError
from pipeline.importer.check.walk import opset_of
from pipeline.importer.evaluate import evaluate, is_foldable, is_random
from pipeline.importer.limits import check_tensor_size
from pipeline.importer.operands import misfit
from pipeline.importer.opsets import MIN_OPSET, OldNode, upgrade
from pipeline.importer.recurrent import RECURRENT, unrolled

Array = npt.NDArray[Any]

MAX_NODES = 200_000
"""More nodes are refused: a loop of many turns, or functions that call each other, can make any number."""

_MAX_INFERENCE_ELEMENTS = 4096
"""Larger constants aren't shown to the shape inference: they are weights, never shapes."""


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Attributes:
        name: in the new graph.
        dtype: ONNX's element type; 0 if it isn't known.
        shape: None if it isn't known.
        value: of a constant; None for others.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    value: Array | None = None

    @property
    def type(self) -> TypeProto:
        """The type as ONNX writes it."""
        return helper.make_tensor_type_proto(self.dtype, self.shape)


Scope = dict[str, "Tensor | None"]
"""What the names of a graph stand for; the empty name, of an optional input that isn't given, stands for None."""


def specialize(model: onnx.ModelProto, native: Set[str], shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Return an equivalent model of one graph; see the module's docstring.

    Args:
        model: a checked model; not changed.
        native: operators that are kept; others are replaced by the function that defines them, if there is one.
        shapes: input name -> shape, for all inputs.

    Raises:
        ModelError: the graph isn't valid, or grows beyond all bounds.
    """
    # A graph of nothing but calls needs no operators of ONNX's own; its functions do.
    opset = opset_of(model) or max(opset_of(function) or 0 for function in model.functions)
    return _Specializer(model, native, opset).run(shapes)


class _Specializer:
    def __init__(self, model: onnx.ModelProto, native: Set[str], opset: int) -> None:
        self.model = model
        self.native = native
        self.opset = opset
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[Any, ...], list[Tensor | None]] = {}
        self.names: set[str] = set()
        self.reserved: set[str] = set()
        self.depth = 0
        self.constants: dict[str, Array] = {}

    def run(self, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
        graph = self.model.graph
        scope: Scope = {"": None}
        self.reserved = {o.name for o in graph.output}
        self.names = self.reserved | {i.name for i in graph.input}
        self._add_initializers(graph, scope)
        inputs = []
        for value in graph.input:
            if value.name not in scope:
                dtype = value.type.tensor_type.elem_type
                scope[value.name] = Tensor(value.name, dtype, tuple(shapes[value.name]))
                inputs.append(helper.make_tensor_value_info(value.name, dtype, list(shapes[value.name])))
        results = self._graph(graph, scope, self.opset)
        outputs = [self._output(o.name, tensor) for o, tensor in zip(graph.output, results, strict=True)]
        return self._finish(inputs, outputs)

    def _finish(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        needed, kept = {o.name for o in outputs}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input, *(_captured(g) for g in _subgraphs(node)))
                kept.append(node)
        initializers = [numpy_helper.from_array(v, n) for n, v in self.constants.items() if n in needed]
        named = needed.difference(o.name for o in outputs)
        known = [
            helper.make_tensor_value_info(t.name, t.dtype, t.shape)
            for results in self.made.values()
            for t in results
            if t is not None and t.name in named and t.shape is not None
        ]
        name = self.model.graph.name or "main"
        graph = helper.make_graph(kept[::-1], name, inputs, outputs, initializers, value_info=known)
        opsets = [helper.make_opsetid("", max(self.opset, MIN_OPSET))]
        opsets += [o for o in self.model.opset_import if o.domain not in ("", "ai.onnx")]
        return helper.make_model(graph, opset_imports=opsets, ir_version=max(self.model.ir_version, 8))

    def _output(self, name: str, tensor: Tensor) -> onnx.ValueInfoProto:
        if tensor.name != name:
            self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name))
        return helper.make_tensor_value_info(name, tensor.dtype, tensor.shape)

    # Graphs and what they hold.

    def _graph(self, graph: GraphProto, scope: Scope, opset: int) -> list[Tensor]:
        """Add a graph's nodes and return its outputs; `scope` holds what it can see, and gets what it computes."""
        wanted = [o.name for o in graph.output]
        self._nodes(graph.node, wanted, scope, opset)
        return [_defined(scope, name, "The graph") for name in wanted]

    def _subgraph(self, graph: GraphProto, scope: Scope, opset: int, inputs: Sequence[Tensor] = ()) -> list[Tensor]:
        """Add the nodes of a branch or of one turn of a loop, and return its outputs."""
        inner = scope | {value.name: tensor for value, tensor in zip(graph.input, inputs, strict=True)}
        self.depth += 1
        self._add_initializers(graph, inner)
        results = self._graph(graph, inner, opset)
        self.depth -= 1
        return results

    def _nodes(self, nodes: Iterable[NodeProto], wanted: Iterable[str], scope: Scope, opset: int) -> None:
        for node, used in _live(list(nodes), wanted):
            for name, tensor in zip(node.output, self._node(node, used, scope, opset), strict=False):
                if name:
                    scope[name] = tensor

    def _add_initializers(self, graph: GraphProto, scope: Scope) -> None:
        for proto in graph.initializer:
            scope[proto.name] = self._constant(numpy_helper.to_array(proto), proto.name, proto.data_type)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self._constant(_dense(sparse), sparse.values.name)

    def _constant(self, value: Array, name: str, dtype: int | None = None) -> Tensor:
        fresh = self._fresh(name)
        self.constants[fresh] = value
        known = helper.np_dtype_to_tensor_dtype(value.dtype) if dtype is None else dtype
        return Tensor(fresh, known, value.shape, value)

    def _fresh(self, name: str) -> str:
        """Return a name that no tensor has yet: the given one, or with a number; the model's outputs keep theirs."""
        if self.depth == 0 and name in self.reserved:
            self.reserved.remove(name)
            return name
        fresh, count = name, 0
        while fresh in self.names or not fresh:
            count += 1
            fresh = f"{name}.{count}"
        self.names.add(fresh)
        return fresh

    # Nodes.

    def _node(self, node: NodeProto, used: Set[str], scope: Scope, opset: int) -> Sequence[Tensor | None]:
        """Add what computes a node, and return its results, None for those that nothing reads."""
        inputs = [_given(scope, n, f"{node.op_type} {_title(node)!r}") for n in node.input]
        if node.domain not in ("", "ai.onnx") or (node.domain, node.op_type, node.overload) in self.functions:
            return self._function_call(node, inputs, used, scope)
        if opset < MIN_OPSET:
            rewritten = self._upgraded(node, scope, opset)
            if rewritten != [node]:
                inner = dict(scope)
                self._nodes(rewritten, used, inner, MIN_OPSET)
                return [inner.get(name) for name in node.output]
        opset = max(opset, MIN_OPSET)
        special = _SPECIAL.get(node.op_type)
        results = special(self, node, inputs, scope, opset) if special is not None else None
        if results is None:
            results = self._expanded(node, inputs, used, opset)
        return self._plain(node, inputs, used, opset) if results is None else results

    def _plain(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], opset: int
    ) -> Sequence[Tensor | None]:
        optional = _optional_outputs(node, opset)
        outputs = [name if name in used or k not in optional else "" for k, name in enumerate(node.output)]
        # A result that nobody reads may have no name in the file; what must be there gets one.
        outputs = [name if name or k in optional else f"{_title(node)}.{k}" for k, name in enumerate(outputs)]
        while outputs and not outputs[-1]:
            outputs.pop()
        call = NodeProto(op_type=node.op_type, name=next(n for n in outputs if n))
        call.input.extend("" if t is None else t.name for t in inputs)
        while call.input and not call.input[-1]:
            del call.input[-1]
        call.attribute.extend(node.attribute)
        call.output.extend(outputs)
        types = self._infer(call, inputs, opset)
        if all(t is None or t.value is not None for t in inputs) and is_foldable(call, [s for _, s in types]):
            values = evaluate(call, {t.name: t.value for t in inputs if t is not None and t.value is not None}, opset)
            if values is not None:
                return [None if v is None else self._constant(v, n) for v, n in zip(values, outputs, strict=True)]
        return self._emit(call, types)

    def _emit(self, call: NodeProto, types: Sequence[tuple[int, tuple[int, ...] | None]]) -> Sequence[Tensor | None]:
        key = (call.op_type, call.domain, *call.input, *map(bool, call.output), *_attribute_bytes(call))
        if key in self.made and not is_random(call):
            return self.made[key]
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"The model has more than {MAX_NODES} nodes once its loops and functions are written out.")
        names = [self._fresh(name) if name else "" for name in call.output]
        call.output[:] = names
        call.name = next(n for n in names if n)
        self.nodes.append(call)
        results = [Tensor(n, t, s) if n else None for n, (t, s) in zip(names, types, strict=True)]
        self.made[key] = results
        return results

    def _infer(
        self, call: NodeProto, inputs: Sequence[Tensor | None], opset: int
    ) -> list[tuple[int, tuple[int, ...] | None]]:
        """Return the element type and shape of each result, 0 and None where they can't be known."""
        unknown: list[tuple[int, tuple[int, ...] | None]] = [(0, None)] * len(call.output)
        given = [t for t in inputs if t is not None]
        if any(not t.dtype for t in given) or not defs.has(call.op_type, opset, ""):
            return unknown
        schema = defs.get_schema(call.op_type, opset, "")
        if all(t.shape is not None for t in given):
            attributes = {a.name: helper.get_attribute_value(a) for a in call.attribute}
            problem = misfit(call.op_type, [None if t is None else t.shape for t in inputs], attributes)
            if problem is not None:
                raise ModelError(_inference_message(call, inputs, problem))
        small = {t.name: t.value for t in given if t.value is not None and t.value.size <= _MAX_INFERENCE_ELEMENTS}
        try:
            found = shape_inference.infer_node_outputs(
                schema,
                call,
                {t.name: t.type for t in given},
                {n: numpy_helper.from_array(v, n) for n, v in small.items()},
                opset_imports=[helper.make_opsetid("", opset)],
                ir_version=10,
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise ModelError(_inference_message(call, inputs, str(error))) from error
        except defs.SchemaError as error:
            raise ModelError(f"{call.op_type} {call.name!r} isn't valid for operator set {opset}: {error}") from error
        types = [_static(found[n].tensor_type) if n in found else (0, None) for n in call.output]
        for name, (dtype, shape) in zip(call.output, types, strict=True):
            if shape is not None:
                check_tensor_size(name, shape, dtype)
        return types

    def _upgraded(self, node: NodeProto, scope: Scope, opset: int) -> list[NodeProto]:
        def known(name: str) -> Tensor | None:
            return _defined(scope, name, node.op_type) if name else None

        def shape(name: str) -> tuple[int, ...] | None:
            tensor = known(name)
            return None if tensor is None else tensor.shape

        def value(name: str) -> Array | None:
            tensor = known(name)
            return None if tensor is None else tensor.value

        def constant(array: Array) -> str:
            tensor = self._constant(array, f"{_title(node)}.constant")
            scope[tensor.name] = tensor
            return tensor.name

        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        old = OldNode(node, attributes, shape, value, constant, lambda: self._fresh(f"{_title(node)}.part"))
        return upgrade(old, opset)

    # Functions.

    def _function_call(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], scope: Scope
    ) -> Sequence[Tensor | None]:
        """Add the nodes of one of the model's own functions; a call of a function that isn't there stays as it is."""
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._function(function, node, inputs, used)
        call = NodeProto()
        call.CopyFrom(node)
        call.input[:] = ["" if t is None else t.name for t in inputs]
        return self._emit(call, [(0, None)] * len(call.output))

    def _expanded(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], opset: int
    ) -> Sequence[Tensor | None] | None:
        """Add the nodes of the function that defines an operator; None if it is native, or has no such definition."""
        second = [o for o in node.output[1:] if o in used]
        if node.op_type in self.native and not (second and node.op_type in _SINGLE_RESULT):
            return None
        if not defs.has(node.op_type, opset, ""):
            return None
        schema = defs.get_schema(node.op_type, opset, "")
        body = _unrolled(node, inputs) if node.op_type in RECURRENT else _definition(schema, node, inputs, opset)
        return None if body is None else self._function(body, _with_defaults(node, schema), inputs, used)

    def _function(
        self, function: onnx.FunctionProto, node: NodeProto, inputs: Sequence[Tensor | None], used: Set[str]
    ) -> Sequence[Tensor | None]:
        if self.depth > _MAX_DEPTH:
            raise ModelError(f"{node.op_type} {_title(node)!r}: functions call each other more than {_MAX_DEPTH} deep.")
        attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        # Inputs that the call leaves out are like optional ones that aren't given.
        scope: Scope = {"": None, **dict.fromkeys(function.input)}
        scope |= dict(zip(function.input, inputs, strict=False))
        results = [(formal, actual in used) for formal, actual in zip(function.output, node.output, strict=False)]
        opset = max((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), default=self.opset)
        body = [_with_attributes(inner, attributes, _title(node)) for inner in function.node]
        self.depth += 1
        self._nodes(body, [formal for formal, wanted in results if wanted], scope, opset)
        self.depth -= 1
        return [scope[formal] if wanted else None for formal, wanted in results]


# Operators whose results follow from more than the values of their inputs. Each returns None for a node that it can do
# nothing about.

_Special = Any


def _constant_node(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor] | None:
    del inputs, scope
    (attribute,) = node.attribute
    if attribute.name == "value":
        return [s._constant(numpy_helper.to_array(attribute.t), node.output[0], attribute.t.data_type)]
    if attribute.name == "sparse_value":
        return [s._constant(_dense(attribute.sparse_tensor), node.output[0])]
    values = evaluate(node, {}, opset)
    return None if values is None or values[0] is None else [s._constant(values[0], node.output[0])]


def _shape(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor] | None:
    del scope, opset
    x = inputs[0]
    if x is None or x.shape is None:
        return None
    if node.op_type == "Size":
        return [s._constant(np.array(int(np.prod(x.shape, dtype="int64")), "int64"), node.output[0])]
    begin, end = _attribute(node, "start", 0), _attribute(node, "end", len(x.shape))
    return [s._constant(np.array(x.shape[begin:end], "int64"), node.output[0])]


def _identity(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None]:
    del s, node, scope, opset
    return inputs[:1]


def _dropout(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """At inference nothing is dropped, and the mask keeps everything."""
    del scope, opset
    x, training = inputs[0], inputs[2] if len(inputs) > 2 else None
    if training is not None and (training.value is None or training.value.any()):
        raise ModelError(
            f"Dropout {_title(node)!r} drops at random (training_mode is set). Export the model for inference: "
            "model.eval() in PyTorch."
        )
    if len(node.output) == 1 or x is None:
        return inputs[:1]
    if x.shape is None:
        return None
    return [x, s._constant(np.ones(x.shape, "bool"), node.output[1])]


def _batch_normalization(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """Training normalizes by each batch's own statistics, and returns new running ones."""
    del s, inputs, scope, opset
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        raise ModelError(
            f"BatchNormalization {_title(node)!r} is that of training (training_mode is set). Export the model for "
            "inference: model.eval() in PyTorch."
        )
    return None


def _cast(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    del s, scope, opset
    x = inputs[0]
    return inputs[:1] if x is not None and x.dtype == _attribute(node, "to", 0) else None


def _cast_like(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    like = inputs[1]
    if like is None or not like.dtype:
        return None
    cast = helper.make_node("Cast", node.input[:1], node.output, node.name, to=like.dtype)
    return s._node(cast, set(node.output), scope, opset)


def _reshaping(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """What only changes the shape changes nothing where the shape stays."""
    del scope
    x = inputs[0]
    if x is None or x.shape is None:
        return None
    ((dtype, shape),) = s._infer(_probe(node, inputs), inputs, opset)
    if shape is None:
        return None
    if shape == x.shape:
        return [x]
    if node.op_type != "Reshape" or x.value is not None:
        return None
    target = s._constant(np.array(shape, "int64"), f"{node.output[0]}.shape")
    return s._emit(helper.make_node("Reshape", [x.name, target.name], node.output, node.name), [(dtype, shape)])


def _slice(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    del scope
    x, steps = inputs[0], inputs[4] if len(inputs) > 4 else None
    forward = steps is None or (steps.value is not None and (steps.value > 0).all())
    if x is None or x.shape is None or not forward:
        return None
    ((_, shape),) = s._infer(_probe(node, inputs), inputs, opset)
    return [x] if shape == x.shape else None


def _split(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """One part is the whole."""
    del scope
    x = inputs[0]
    if x is None or x.shape is None or len(node.output) > 1:
        return None
    ((_, shape),) = s._infer(_probe(node, inputs), inputs, opset)
    return [x] if shape == x.shape else None


def _pad(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    del s, node, scope, opset
    pads = inputs[1]
    return inputs[:1] if pads is not None and pads.value is not None and not pads.value.any() else None


def _concat(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """Parts without elements add nothing."""
    filled = [t for t in inputs if t is None or t.shape is None or 0 not in t.shape]
    if (len(filled) == len(inputs) and len(inputs) > 1) or not filled:
        return None
    if len(filled) == 1:
        return filled
    inner: Scope = scope | {t.name: t for t in filled if t is not None}
    shorter = helper.make_node("Concat", [t.name for t in filled if t is not None], node.output, node.name)
    shorter.attribute.extend(node.attribute)
    return s._node(shorter, set(node.output), inner, opset)


def _if(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    condition = inputs[0]
    if condition is None or condition.value is None:
        return None
    branch = _attribute(node, "then_branch" if condition.value.any() else "else_branch", None)
    return s._subgraph(branch, scope, opset)


_MAX_TURNS = 1024
_MAX_DEPTH = 100


def _loop(
    s: _Specializer, node: NodeProto, inputs: Sequence[Tensor | None], scope: Scope, opset: int
) -> Sequence[Tensor | None] | None:
    """A loop whose end is known beforehand is written out, turn by turn."""
    body: GraphProto = _attribute(node, "body", None)
    limit, condition, *carried = inputs
    if any(t is not None and t.value is None for t in (limit, condition)) or any(t is None for t in carried):
        return None
    turns = _MAX_TURNS + 1 if limit is None or limit.value is None else int(limit.value.reshape(()))
    values = [t for t in carried if t is not None]
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.output) - 1 - len(values))]
    going = condition is None or (condition.value is not None and bool(condition.value.any()))
    before = len(s.nodes)
    turn = 0
    while going and turn < turns:
        if turn == _MAX_TURNS:
            raise ModelError(f"Loop {_title(node)!r} takes more than {_MAX_TURNS} turns, too many to write out.")
        number = s._constant(np.array(turn, "int64"), f"{_title(node)}.turn")
        more, *results = s._subgraph(body, scope, opset, [number, s._constant(np.array(True), "going"), *values])
        if more.value is None:
            # Nothing reads what was added so far, and so it goes in the end.
            del s.nodes[before:]
            s.made.clear()
            return None
        going, turn = bool(more.value.any()), turn + 1
        values = results[: len(values)]
        for parts, part in zip(scanned, results[len(values) :], strict=True):
            parts.append(part)
    if not all(scanned):
        return None
    return [*values, *(_stacked(s, parts, _title(node), opset) for parts in scanned)]


def _stacked(s: _Specializer, parts: list[Tensor], title: str, opset: int) -> Tensor:
    scope: Scope = {"": None} | {t.name: t for t in parts}
    axis = s._constant(np.array([0], "int64"), f"{title}.axis")
    scope[axis.name] = axis
    rows = []
    for k, part in enumerate(parts):
        row = helper.make_node("Unsqueeze", [part.name, axis.name], [f"{title}.row{k}"])
        (scope[row.output[0]],) = s._node(row, set(row.output), scope, opset)
        rows.append(row.output[0])
    concat = helper.make_node("Concat", rows, [f"{title}.rows"], axis=0)
    (result,) = s._node(concat, set(concat.output), scope, opset)
    if result is None:
        raise AssertionError("a concatenation has a result")
    return result


_SPECIAL: Mapping[str, _Special] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "Constant": _constant_node,
    "BatchNormalization": _batch_normalization,
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

_SINGLE_RESULT = frozenset({"LayerNormalization", "RMSNormalization", "SkipLayerNormalization"})
"""Operators whose converters give the first result only; for others they are written out as functions."""


# Small things.


def _title(node: NodeProto) -> str:
    """Return what a user calls a node: its name, or its first result's."""
    return str(node.name or next((o for o in node.output if o), node.op_type))


def _given(scope: Scope, name: str, reader: str) -> Tensor | None:
    """Return what a name stands for; None if it is an optional input, of the node or of its function, not given."""
    return None if name in scope and scope[name] is None else _defined(scope, name, reader)


def _defined(scope: Scope, name: str, reader: str) -> Tensor:
    tensor = scope.get(name)
    if tensor is None:
        raise ModelError(f"{reader} reads the tensor {name!r}, which nothing before it computes.")
    return tensor


def _live(nodes: Sequence[NodeProto], wanted: Iterable[str]) -> list[tuple[NodeProto, frozenset[str]]]:
    """Return the nodes that `wanted` rests on, in order, each with those of its outputs that are used."""
    needed, kept = set(wanted), []
    for node in reversed(nodes):
        used = needed.intersection(node.output)
        if used:
            kept.append((node, frozenset(used)))
            needed.update(node.input, *(_captured(g) for g in _subgraphs(node)))
    return kept[::-1]


def _subgraphs(node: NodeProto) -> list[GraphProto]:
    found = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return found + [g for a in node.attribute if a.type == AttributeProto.GRAPHS for g in a.graphs]


def _captured(graph: GraphProto) -> set[str]:
    """Return the names that a subgraph reads; among them may be some that it defines itself."""
    names = {o.name for o in graph.output}
    for node in graph.node:
        names.update(node.input, *(_captured(g) for g in _subgraphs(node)))
    return names


def _optional_outputs(node: NodeProto, opset: int) -> frozenset[int]:
    """Return which outputs a node may do without; how many parts a Split has, say, depends on how many are named."""
    if not defs.has(node.op_type, opset, ""):
        return frozenset()
    outputs = defs.get_schema(node.op_type, opset, "").outputs
    return frozenset(k for k, o in enumerate(outputs) if o.option == defs.OpSchema.FormalParameterOption.Optional)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _attribute_bytes(node: NodeProto) -> list[bytes]:
    return sorted(a.SerializeToString(deterministic=True) for a in node.attribute)


def _probe(node: NodeProto, inputs: Sequence[Tensor | None]) -> NodeProto:
    """Return the node with the new graph's names, for the inference of its type."""
    probe = helper.make_node(node.op_type, ["" if t is None else t.name for t in inputs], node.output, _title(node))
    probe.attribute.extend(node.attribute)
    return probe


def _static(tensor: TypeProto.Tensor) -> tuple[int, tuple[int, ...] | None]:
    dims = tensor.shape.dim
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return tensor.elem_type, tuple(d.dim_value for d in dims) if known else None


def _dense(sparse: onnx.SparseTensorProto) -> Array:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _definition(
    schema: defs.OpSchema, node: NodeProto, inputs: Sequence[Tensor | None], opset: int
) -> onnx.FunctionProto | None:
    """Return the function that defines an operator, in the newest form that isn't newer than `opset`."""
    versions = schema.context_dependent_function_opset_versions if schema.has_context_dependent_function else []
    fitting = [v for v in versions if v <= opset]
    if fitting and all(t is None or t.dtype for t in inputs):
        types = [TypeProto() if t is None else t.type for t in inputs]
        call = _probe(node, inputs)
        data = schema.get_context_dependent_function_with_opset_version(
            max(fitting), call.SerializeToString(), [t.SerializeToString() for t in types]
        )
    elif schema.has_function and (fitting := [v for v in schema.function_opset_versions if v <= opset]):
        data = schema.get_function_with_opset_version(max(fitting))
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    return function if function.node else None


def _unrolled(node: NodeProto, inputs: Sequence[Tensor | None]) -> onnx.FunctionProto | None:
    x, lengths = inputs[0], inputs[4] if len(inputs) > 4 else None
    if x is None or x.shape is None or len(x.shape) != 3:
        return None
    steps = x.shape[1 if _attribute(node, "layout", 0) else 0]
    full = lengths is None or (lengths.value is not None and bool((lengths.value == steps).all()))
    return unrolled(node, x.shape, [t is not None for t in inputs], full)


def _with_defaults(node: NodeProto, schema: defs.OpSchema) -> NodeProto:
    """Return the node with the attributes that it leaves out, as far as the operator says what they are then."""
    full = NodeProto()
    full.CopyFrom(node)
    given = {a.name for a in node.attribute}
    defaults = (a.default_value for name, a in schema.attributes.items() if name not in given)
    full.attribute.extend(d for d in defaults if d.type != AttributeProto.UNDEFINED)
    return full


def _with_attributes(node: NodeProto, given: Mapping[str, AttributeProto], title: str) -> NodeProto:
    """Return a function's node with its references to the function's attributes replaced, and named for the call."""
    resolved = NodeProto()
    resolved.CopyFrom(node)
    resolved.name = f"{title}/{node.op_type}"
    del resolved.attribute[:]
    for attribute in node.attribute:
        value = AttributeProto()
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in given:
                continue
            value.CopyFrom(given[attribute.ref_attr_name])
            value.name = attribute.name
        else:
            value.CopyFrom(attribute)
        for graph in [value.g] if value.type == AttributeProto.GRAPH else value.graphs:
            inner = [_with_attributes(n, given, title) for n in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
        resolved.attribute.append(value)
    return resolved


def _inference_message(call: NodeProto, inputs: Sequence[Tensor | None], reason: str) -> str:
    given = ", ".join(
        f"{t.name} {TensorProto.DataType.Name(t.dtype).lower()}{list(t.shape) if t.shape is not None else '[?]'}"
        for t in inputs
        if t is not None
    )
    return f"{call.op_type} {call.name!r} doesn't fit its inputs ({given}): {reason.rpartition(': ')[2].strip()}"
