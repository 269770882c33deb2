"""Checks of single nodes: their numbers of inputs and outputs, and their attributes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, defs

from pipeline.errors import ModelError
from pipeline.importer.limits import element_type
from pipeline.importer.onnx_protos import is_standard, node_title
from pipeline.importer.read.check.contents import Body

_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
"""The field of an attribute's message that has its value, for each type of attribute."""

_NEEDED = frozenset({"t", "g", "sparse_tensor", "tp"})
"""Fields that must be present. The others may be left out: some exporters don't write zeros and empty lists."""

_KINDS = {number: name for name, number in AttributeProto.AttributeType.items()}


def check_nodes(body: Body, functions: dict[tuple[str, str, str], FunctionProto]) -> None:
    """Check the nodes of one graph or function, except for the graphs nested in them.

    Args:
        body: the graph or function.
        functions: the model's own functions by domain, name and overload.

    Raises:
        ModelError: a node has no operator or no output, a wrong number of inputs or outputs, or attributes other than
            the operator defines.
    """
    for node in body.proto.node:
        where = f"{node_title(node)}{body.place}"
        if not node.op_type:
            raise ModelError(f"the node {where or 'without a name'} has no operator.")
        if not any(node.output):
            raise ModelError(f"{where} has no outputs.")
        for attribute in node.attribute:
            check_attribute(attribute, f"{where}", body.function)
        names = [a.name for a in node.attribute]
        if len(set(names)) < len(names):
            raise ModelError(f"{where} has an attribute twice: {', '.join(sorted(names))}.")
        function = functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            _check_counts(where, _length(node.input), len(node.output), len(function.input), len(function.output))
        elif is_standard(node.domain) and body.opset is not None:
            _check_against_schema(node, body.opset, where)


def check_attribute(attribute: AttributeProto, where: str, function: FunctionProto | None) -> None:
    """Check that an attribute has a name, and a value of the type that it declares.

    Args:
        attribute: the attribute.
        where: the node or function that it belongs to, for messages.
        function: the function around it, to whose attributes it may refer; None outside of functions.

    Raises:
        ModelError: the attribute is invalid.
    """
    if not attribute.name or isinstance(attribute.name, bytes):
        raise ModelError(f"{where} has an attribute whose name is missing or damaged.")
    what = f"attribute {attribute.name!r} of {where}"
    given = _values(attribute)
    if attribute.ref_attr_name:
        declared = [] if function is None else [*function.attribute, *(a.name for a in function.attribute_proto)]
        if attribute.ref_attr_name not in declared:
            raise ModelError(f"{what} refers to {attribute.ref_attr_name!r}, which nothing around it defines.")
        return
    if attribute.type not in _FIELDS:
        raise ModelError(f"{what} has no type. Export the model again with a newer exporter.")
    expected = _FIELDS[attribute.type]
    if given - {expected} or (expected in _NEEDED and not given):
        found = ", ".join(sorted(given)) or "nothing"
        raise ModelError(f"{what} should have a value of type {_KINDS[attribute.type]}, but has: {found}.")


def _values(attribute: AttributeProto) -> set[str]:
    return {field.name for field, _ in attribute.ListFields()} & set(_FIELDS.values())


def _length(names: object) -> int:
    """Return the number of names, not counting empty ones at the end."""
    given = list(names)  # type: ignore[call-overload]
    while given and not given[-1]:
        given.pop()
    return len(given)


def _check_counts(where: str, inputs: int, outputs: int, max_inputs: int, max_outputs: int) -> None:
    if inputs > max_inputs:
        raise ModelError(f"{where} has {inputs} inputs; at most {max_inputs} are allowed.")
    if outputs > max_outputs:
        raise ModelError(f"{where} has {outputs} outputs; at most {max_outputs} are allowed.")


@cache
def _schema(op_type: str, opset: int) -> defs.OpSchema | None:
    """Return the schema of an operator in an operator set; None if it isn't defined there, or is deprecated."""
    if not defs.has(op_type, opset, ""):
        return None
    schema = defs.get_schema(op_type, opset, "")
    return None if schema.deprecated else schema


@cache
def _required_inputs(op_type: str, opset: int) -> tuple[tuple[int, str], ...]:
    """Return the positions and names of the inputs that can't be left out.

    Inputs that a later operator set made optional aren't among them, as exporters left them out even before.
    """
    schema = defs.get_schema(op_type, opset, "")
    latest = {
        i.name for i in defs.get_schema(op_type).inputs if i.option == defs.OpSchema.FormalParameterOption.Optional
    }
    single = defs.OpSchema.FormalParameterOption.Single
    return tuple((k, i.name) for k, i in enumerate(schema.inputs) if i.option == single and i.name not in latest)


def _check_against_schema(node: NodeProto, opset: int, where: str) -> None:
    schema = _schema(node.op_type, opset)
    if schema is None:
        return
    _check_counts(where, _length(node.input), _length(node.output), schema.max_input, schema.max_output)
    for position, name in _required_inputs(node.op_type, opset):
        if position >= len(node.input) or not node.input[position]:
            raise ModelError(f"{where} lacks its input {name!r}.")
    variadic = [i for i in schema.inputs if i.option == defs.OpSchema.FormalParameterOption.Variadic]
    if variadic and _length(node.input) < schema.min_input:
        raise ModelError(f"{where} has {_length(node.input)} inputs; it takes at least {schema.min_input}.")
    given = {a.name: a for a in node.attribute}
    for name, attribute in given.items():
        known = schema.attributes.get(name)
        # As in ONNX's own checker, names that begin with two underscores are notes of the exporter.
        if known is None and not name.startswith("__"):
            raise ModelError(
                f"{where} has the attribute {name!r}, which {node.op_type} of operator set {opset} doesn't know. "
                f"Known: {', '.join(sorted(schema.attributes)) or 'none'}."
            )
        if known is not None and _KINDS[attribute.type] != known.type.name:
            raise ModelError(
                f"attribute {name!r} of {where} has the type {_KINDS[attribute.type]}; expected {known.type.name}."
            )
        _check_value(attribute, node.op_type, f"attribute {name!r} of {where}")
    missing = [name for name, known in schema.attributes.items() if known.required and name not in given]
    if missing:
        raise ModelError(f"{where} lacks its attribute {', '.join(map(repr, missing))}.")
    if node.op_type == "Constant" and len(given) != 1:
        raise ModelError(f"{where} has {len(given)} attributes; a Constant must have one.")
    _check_graphs(node, given, where)


def _check_value(attribute: AttributeProto, op_type: str, what: str) -> None:
    """Check values whose attribute type is too general: integers that are element types, and bytes that are text."""
    is_type = attribute.name in ("to", "dtype") and attribute.HasField("i")
    if is_type and attribute.i not in set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}:
        raise ModelError(f"{what} is {element_type(attribute.i)}; expected an element type of ONNX's.")
    if op_type != "Constant":
        for text in (attribute.s, *attribute.strings):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise ModelError(f"{what} isn't UTF-8 text. The file is damaged.") from error


def _check_graphs(node: NodeProto, attributes: Mapping[str, AttributeProto], where: str) -> None:
    """Check that the subgraphs of If and Loop have the numbers of inputs and outputs that the node needs."""
    inputs, outputs = len(node.input), len(node.output)
    expected = {
        "If": dict.fromkeys(("then_branch", "else_branch"), (0, outputs)),
        # A loop's body takes the iteration's number and the condition before the carried values, and returns the
        # condition before them.
        "Loop": {"body": (max(inputs, 2), outputs + 1)},
    }
    for name, (given, taken) in expected.get(node.op_type, {}).items():
        graph = attributes[name].g
        if (len(graph.input), len(graph.output)) != (given, taken):
            raise ModelError(
                f"{name} of {where} has {len(graph.input)} inputs and {len(graph.output)} outputs; expected {given} "
                f"and {taken}."
            )
