"""ToFloat32: a model in float16, bfloat16 or float64 computes in float32 instead.

Before -> after: `x (float16) -> Conv -> y (float16)` becomes `x (float16) -> Cast -> Conv (float32) -> Cast -> y`. The
model's inputs and outputs keep their types.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

OTHER_FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
"""Attributes that hold an element type."""


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with all floating-point tensors between its inputs and outputs in float32.

    Args:
        model: a specialized model, without subgraphs; changed in place.
    """
    graph = model.graph
    renamed: dict[str, str] = {}
    casts_in, casts_out = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            renamed[value.name] = f"{value.name}.float32"
            casts_in.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT))
    for value in graph.output:
        dtype = value.type.tensor_type.elem_type
        if dtype in OTHER_FLOATS:
            inner = renamed.setdefault(value.name, f"{value.name}.float32")
            casts_out.append(_cast(inner, value.name, dtype))
    for value in graph.value_info:
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        if tensor.data_type in OTHER_FLOATS:
            value32 = np.asarray(numpy_helper.to_array(tensor)).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(value32, tensor.name))
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.name = next(name for name in node.output if name)
        for attribute in node.attribute:
            _widen(attribute)
    nodes = [*casts_in, *graph.node, *casts_out]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _cast(before: str, after: str, dtype: int) -> NodeProto:
    return helper.make_node("Cast", [before], [after], after, to=dtype)


def _widen(attribute: AttributeProto) -> None:
    if attribute.name in _TYPE_ATTRIBUTES and attribute.type == AttributeProto.INT and attribute.i in OTHER_FLOATS:
        attribute.i = TensorProto.FLOAT
