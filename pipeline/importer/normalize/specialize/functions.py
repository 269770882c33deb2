"""Functions that define operators: by the ONNX standard, by the model, or by unrolling a recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import AttributeProto, NodeProto, TypeProto, defs

from pipeline.importer.normalize.recurrent import unroll
from pipeline.importer.normalize.specialize.tensors import Tensor, with_names
from pipeline.importer.onnx_protos import attribute_of


def definition(
    schema: defs.OpSchema, node: NodeProto, inputs: Sequence[Tensor | None], opset: int
) -> onnx.FunctionProto | None:
    """Return the function by which ONNX defines an operator; None if there is none.

    Args:
        schema: the operator's schema.
        node: a node of the operator; some definitions depend on its attributes and the types of its inputs.
        inputs: the node's inputs.
        opset: the newest version of the operator set that the function may use.
    """
    versions = schema.context_dependent_function_opset_versions if schema.has_context_dependent_function else []
    fitting = [v for v in versions if v <= opset]
    if fitting and all(t is None or t.dtype for t in inputs):
        types = [TypeProto() if t is None else t.type for t in inputs]
        call = with_names(node, inputs)
        data = schema.get_context_dependent_function_with_opset_version(
            max(fitting), call.SerializeToString(), [t.SerializeToString() for t in types]
        )
    elif schema.has_function and (fitting := [v for v in schema.function_opset_versions if v <= opset]):
        data = schema.get_function_with_opset_version(max(fitting))
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    given = {a.name for a in function.attribute_proto}
    defaults = (a.default_value for name, a in schema.attributes.items() if name not in given)
    function.attribute_proto.extend(d for d in defaults if d.type != onnx.AttributeProto.UNDEFINED)
    return function if function.node else None


def unrolled_layer(node: NodeProto, inputs: Sequence[Tensor | None]) -> onnx.FunctionProto | None:
    """Return a recurrent layer as a function; None if it can't be unrolled, see `recurrent.unroll`."""
    x, lengths = inputs[0], inputs[4] if len(inputs) > 4 else None
    if x is None or x.shape is None or len(x.shape) != 3:
        return None
    steps = x.shape[1 if attribute_of(node, "layout", 0) else 0]
    full_length = lengths is None or (lengths.value is not None and bool((lengths.value == steps).all()))
    return unroll(node, x.shape, [t is not None for t in inputs], full_length)


def with_defaults(node: NodeProto, schema: defs.OpSchema) -> NodeProto:
    """Return the node with the operator's default values for attributes that it leaves out."""
    full = NodeProto()
    full.CopyFrom(node)
    given = {a.name for a in node.attribute}
    defaults = (a.default_value for name, a in schema.attributes.items() if name not in given)
    full.attribute.extend(d for d in defaults if d.type != AttributeProto.UNDEFINED)
    return full


def with_attributes(node: NodeProto, given: Mapping[str, AttributeProto], title: str) -> NodeProto:
    """Return a node of a function, for a call of the function.

    Args:
        node: the node.
        given: attributes of the call, which replace the node's references to attributes of the function.
        title: name of the call, which the node's name begins with.
    """
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
            inner = [with_attributes(n, given, title) for n in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
        resolved.attribute.append(value)
    return resolved
