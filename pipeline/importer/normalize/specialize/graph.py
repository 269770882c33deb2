"""`SpecializedGraph`, which specializes a model node by node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set

import onnx
from onnx import GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference

from pipeline.errors import ModelError
from pipeline.importer.evaluation.node import evaluate, is_foldable, is_random
from pipeline.importer.limits import MAX_NODES, check_tensor_size, tensor_bytes
from pipeline.importer.normalize.operands import operand_mismatch
from pipeline.importer.normalize.recurrent import RECURRENT
from pipeline.importer.normalize.specialize.functions import (
    definition,
    unrolled_layer,
    with_attributes,
    with_defaults,
)
from pipeline.importer.normalize.specialize.rules import RULES
from pipeline.importer.normalize.specialize.tensors import (
    Array,
    Scope,
    Tensor,
    TypeAndShape,
    defined,
    dense,
    optional_input,
    static_type,
)
from pipeline.importer.onnx_protos import (
    attribute_bytes,
    captured_names,
    is_standard,
    live_nodes,
    node_name,
    node_title,
    opset_of,
    optional_outputs,
    subgraphs,
)
from pipeline.importer.opsets import MIN_OPSET, OldNode, upgrade

MAX_DEPTH = 100
"""Deepest nesting of function calls."""

MAX_FOLDED_BYTES = 2 * 1024**3
"""Most bytes that all folded constants may take together; further nodes are left to the compiled program."""

_MAX_INFERENCE_ELEMENTS = 4096
"""Larger constants are weights rather than shapes, and aren't passed to shape inference."""


class SpecializedGraph:
    """Visits a model's nodes in order, and adds specialized nodes to a new graph; see the package's docstring.

    Args:
        model: a checked model.
        convertible: operators that are kept; see `specialize`.
        opset: version of the operator set that the nodes of the model's graph belong to.
    """

    def __init__(self, model: onnx.ModelProto, convertible: Set[str], opset: int) -> None:
        self.model = model
        self.convertible = convertible
        self.opset = opset
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[object, ...], Sequence[Tensor | None]] = {}
        self.names: set[str] = set()
        self.reserved: set[str] = set()
        self.depth = 0
        self.constants: dict[str, Array] = {}
        self.folded_bytes = 0
        self.visited = 0

    def run(self, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
        """Return the model for these shapes of its inputs."""
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
                needed.update(node.input, *(captured_names(g) for g in subgraphs(node)))
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
        opsets += [o for o in self.model.opset_import if not is_standard(o.domain)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=max(self.model.ir_version, 8))

    def _output(self, name: str, tensor: Tensor) -> onnx.ValueInfoProto:
        if tensor.name != name:
            self.nodes.append(helper.make_node("Identity", [tensor.name], [name], name))
        return helper.make_tensor_value_info(name, tensor.dtype, tensor.shape)

    # Graphs.

    def _graph(self, graph: GraphProto, scope: Scope, opset: int) -> list[Tensor]:
        """Add a graph's nodes and return its outputs.

        Args:
            graph: the graph.
            scope: tensors that the graph can read; those that it computes are added.
            opset: version of the operator set that its nodes belong to.
        """
        wanted = [o.name for o in graph.output]
        self._nodes(graph.node, wanted, scope, opset)
        return [defined(scope, name, "The graph") for name in wanted]

    def subgraph(self, graph: GraphProto, scope: Scope, opset: int, inputs: Sequence[Tensor] = ()) -> list[Tensor]:
        """Add the nodes of a branch of an If, or of one iteration of a loop, and return its outputs."""
        inner = scope | {value.name: tensor for value, tensor in zip(graph.input, inputs, strict=True)}
        self.depth += 1
        try:
            self._add_initializers(graph, inner)
            return self._graph(graph, inner, opset)
        finally:
            self.depth -= 1

    def _nodes(self, nodes: Iterable[NodeProto], wanted: Iterable[str], scope: Scope, opset: int) -> None:
        for node, used in live_nodes(list(nodes), wanted):
            for name, tensor in zip(node.output, self.node(node, used, scope, opset), strict=False):
                if name:
                    scope[name] = tensor

    def _add_initializers(self, graph: GraphProto, scope: Scope) -> None:
        for proto in graph.initializer:
            scope[proto.name] = self.constant(numpy_helper.to_array(proto), proto.name, proto.data_type)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = self.constant(dense(sparse), sparse.values.name)

    def constant(self, value: Array, name: str, dtype: int | None = None) -> Tensor:
        """Return a new constant. It becomes an initializer of the new graph if a node reads it in the end.

        Args:
            value: the constant's value.
            name: its name; a number is added if the name is taken.
            dtype: ONNX's element type; by default that of `value`.
        """
        unused = self._unused_name(name)
        self.constants[unused] = value
        known = helper.np_dtype_to_tensor_dtype(value.dtype) if dtype is None else dtype
        return Tensor(unused, known, value.shape, value)

    def _unused_name(self, name: str) -> str:
        """Return a name that no tensor has yet: `name`, or `name` with a number. The model's outputs keep theirs."""
        if self.depth == 0 and name in self.reserved:
            self.reserved.remove(name)
            return name
        unused, count = name, 0
        while unused in self.names or not unused:
            count += 1
            unused = f"{name}.{count}"
        self.names.add(unused)
        return unused

    # Nodes.

    def node(self, node: NodeProto, used: Set[str], scope: Scope, opset: int) -> Sequence[Tensor | None]:
        """Add the specialized form of a node, and return its results.

        Args:
            node: a node of the model.
            used: names of its outputs that are read.
            scope: tensors that the node can read.
            opset: version of the operator set that the node belongs to.

        Returns:
            A tensor for each output; None for outputs that nothing reads.

        Raises:
            ModelError: the node is invalid, or there are too many.
        """
        # Folded nodes count, too: nested loops of them add no nodes, but would run forever.
        self.visited += 1
        if self.visited > MAX_NODES:
            raise ModelError(f"The model has more than {MAX_NODES} nodes once its loops and functions are expanded.")
        inputs = [optional_input(scope, n, f"{node.op_type} {node_name(node)!r}") for n in node.input]
        if not is_standard(node.domain) or (node.domain, node.op_type, node.overload) in self.functions:
            return self._function_call(node, inputs, used, scope)
        if opset < MIN_OPSET:
            rewritten = self._upgraded(node, scope, opset)
            if rewritten != [node]:
                inner = dict(scope)
                self._nodes(rewritten, used, inner, MIN_OPSET)
                return [inner.get(name) for name in node.output]
        _check_operands(node, inputs)
        # The nodes of subgraphs haven't been upgraded yet, so they still belong to the original operator set.
        rule, original = RULES.get(node.op_type), opset
        opset = max(opset, MIN_OPSET)
        rule_opset = original if subgraphs(node) else opset
        results = None if rule is None else rule(self, node, inputs, scope, rule_opset)
        if results is None:
            results = self._expand_definition(node, inputs, used, opset)
        return self._keep_or_fold(node, inputs, used, opset) if results is None else results

    def _keep_or_fold(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], opset: int
    ) -> Sequence[Tensor | None]:
        """Add a node as it is, or constants if all of its results can be computed."""
        optional = optional_outputs(node, opset)
        outputs = [name if name in used or k not in optional else "" for k, name in enumerate(node.output)]
        # In the file, an output that nothing reads may have no name; an output that isn't optional needs one.
        outputs = [name if name or k in optional else f"{node_name(node)}.{k}" for k, name in enumerate(outputs)]
        while outputs and not outputs[-1]:
            outputs.pop()
        call = NodeProto(op_type=node.op_type, name=next(n for n in outputs if n))
        call.input.extend("" if t is None else t.name for t in inputs)
        while call.input and not call.input[-1]:
            del call.input[-1]
        call.attribute.extend(node.attribute)
        call.output.extend(outputs)
        types = self.infer(call, inputs, opset)
        values = self._computed(call, inputs, types, opset)
        if values is not None:
            return [None if v is None else self.constant(v, n) for v, n in zip(values, outputs, strict=True)]
        return self.emit(call, types)

    def _computed(
        self, call: NodeProto, inputs: Sequence[Tensor | None], types: Sequence[TypeAndShape], opset: int
    ) -> list[Array | None] | None:
        """Return the values of a node's results; None if they aren't constant, or too large."""
        given = {t.name: t.value for t in inputs if t is not None and t.value is not None}
        if any(t is not None and t.value is None for t in inputs) or not is_foldable(call, [s for _, s in types]):
            return None
        size = sum(tensor_bytes(shape, dtype) for dtype, shape in types if shape is not None)
        if self.folded_bytes + size > MAX_FOLDED_BYTES:
            return None
        self.folded_bytes += size
        return evaluate(call, given, opset)

    def emit(self, call: NodeProto, types: Sequence[TypeAndShape]) -> Sequence[Tensor | None]:
        """Add a node and return its results; if there is an equal node already, return that one's results.

        Args:
            call: the node, whose inputs have the names of the new graph.
            types: element types and shapes of its results.
        """
        key = (call.op_type, call.domain, *call.input, *map(bool, call.output), *attribute_bytes(call))
        if key in self.made and not is_random(call):
            return self.made[key]
        names = [self._unused_name(name) if name else "" for name in call.output]
        call.output[:] = names
        call.name = next(n for n in names if n)
        self.nodes.append(call)
        results = [Tensor(n, t, s) if n else None for n, (t, s) in zip(names, types, strict=True)]
        self.made[key] = results
        return results

    def infer(self, call: NodeProto, inputs: Sequence[Tensor | None], opset: int) -> list[TypeAndShape]:
        """Return the element type and shape of each result of a node; 0 and None where they can't be inferred.

        Raises:
            ModelError: the node is invalid, or a result is too large.
        """
        unknown: list[TypeAndShape] = [(0, None)] * len(call.output)
        given = [t for t in inputs if t is not None]
        if any(not t.dtype for t in given) or not defs.has(call.op_type, opset, ""):
            return unknown
        schema = defs.get_schema(call.op_type, opset, "")
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
            raise ModelError(_mismatch_message(call, inputs, str(error))) from error
        except defs.SchemaError as error:
            raise ModelError(f"{call.op_type} {call.name!r} isn't valid for operator set {opset}: {error}") from error
        types = [static_type(found[n].tensor_type) if n in found else (0, None) for n in call.output]
        for name, (dtype, shape) in zip(call.output, types, strict=True):
            if shape is not None:
                check_tensor_size(name, shape, dtype)
        return types

    def _upgraded(self, node: NodeProto, scope: Scope, opset: int) -> list[NodeProto]:
        def known(name: str) -> Tensor | None:
            return defined(scope, name, node.op_type) if name else None

        def shape(name: str) -> tuple[int, ...] | None:
            tensor = known(name)
            return None if tensor is None else tensor.shape

        def value(name: str) -> Array | None:
            tensor = known(name)
            return None if tensor is None else tensor.value

        def constant(array: Array) -> str:
            tensor = self.constant(array, f"{node_name(node)}.constant")
            scope[tensor.name] = tensor
            return tensor.name

        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        old = OldNode(node, attributes, shape, value, constant, lambda: self._unused_name(f"{node_name(node)}.part"))
        return upgrade(old, opset)

    # Functions.

    def _function_call(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], scope: Scope
    ) -> Sequence[Tensor | None]:
        """Inline a call of one of the model's own functions; a call of an unknown function is kept."""
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._inline(function, node, inputs, used)
        call = NodeProto()
        call.CopyFrom(node)
        call.input[:] = ["" if t is None else t.name for t in inputs]
        return self.emit(call, [(0, None)] * len(call.output))

    def _expand_definition(
        self, node: NodeProto, inputs: list[Tensor | None], used: Set[str], opset: int
    ) -> Sequence[Tensor | None] | None:
        """Inline the function that defines an operator; None if the operator is convertible, or isn't so defined."""
        second = [o for o in node.output[1:] if o in used]
        if node.op_type in self.convertible and not (second and node.op_type in _SINGLE_RESULT):
            return None
        if not defs.has(node.op_type, opset, ""):
            return None
        schema = defs.get_schema(node.op_type, opset, "")
        body = unrolled_layer(node, inputs) if node.op_type in RECURRENT else definition(schema, node, inputs, opset)
        return None if body is None else self._inline(body, with_defaults(node, schema), inputs, used)

    def _inline(
        self, function: onnx.FunctionProto, node: NodeProto, inputs: Sequence[Tensor | None], used: Set[str]
    ) -> Sequence[Tensor | None]:
        if self.depth > MAX_DEPTH:
            raise ModelError(f"{node_title(node)}: function calls are nested more than {MAX_DEPTH} deep.")
        attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
        # Inputs that the call leaves out are treated as missing optional inputs.
        scope: Scope = {"": None, **dict.fromkeys(function.input)}
        scope |= dict(zip(function.input, inputs, strict=False))
        results = [(formal, actual in used) for formal, actual in zip(function.output, node.output, strict=False)]
        opset = opset_of(function) or self.opset
        body = [with_attributes(inner, attributes, node_name(node)) for inner in function.node]
        self.depth += 1
        self._nodes(body, [formal for formal, wanted in results if wanted], scope, opset)
        self.depth -= 1
        return [scope[formal] if wanted else None for formal, wanted in results]


_SINGLE_RESULT = frozenset({"LayerNormalization", "RMSNormalization", "SkipLayerNormalization"})
"""Operators whose converters give the first result only; if others are read, the operator's function is inlined."""


def _check_operands(node: NodeProto, inputs: Sequence[Tensor | None]) -> None:
    if all(t is None or t.shape is not None for t in inputs):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        problem = operand_mismatch(node.op_type, [None if t is None else t.shape for t in inputs], attributes)
        if problem is not None:
            raise ModelError(_mismatch_message(node, inputs, problem))


def _mismatch_message(call: NodeProto, inputs: Sequence[Tensor | None], reason: str) -> str:
    given = ", ".join(
        f"{t.name} {TensorProto.DataType.Name(t.dtype).lower()}{list(t.shape) if t.shape is not None else '[?]'}"
        for t in inputs
        if t is not None
    )
    told = re.sub(r"(\w+) typestr: \w+, has unsupported type: tensor\((\w+)\)", r"\1 can't be of type \2", reason)
    told = re.sub(r"\(op_type:[^)]*\): |\[\w+\] ", "", told).strip()
    return f"{call.op_type} {node_name(call)!r} doesn't fit its inputs ({given}): {told}"
