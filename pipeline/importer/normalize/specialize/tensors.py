"""`Tensor`, what is known of a tensor during specialization, and scopes, in which nodes look tensors up by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TypeProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.onnx_protos import node_name

Array = npt.NDArray[Any]

TypeAndShape = tuple[int, "tuple[int, ...] | None"]
"""A tensor's element type, 0 if unknown, and its shape, None if unknown."""


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Attributes:
        name: its name in the new graph.
        dtype: ONNX's element type; 0 if unknown.
        shape: its shape; None if unknown.
        value: its value if it is constant, otherwise None.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    value: Array | None = None

    @property
    def type(self) -> TypeProto:
        """The element type and shape as an ONNX message."""
        return helper.make_tensor_type_proto(self.dtype, self.shape)


Scope = dict[str, "Tensor | None"]
"""Tensors by the names of the model's graph or function; None for missing optional inputs, such as the empty name."""


def optional_input(scope: Scope, name: str, reader: str) -> Tensor | None:
    """Return the tensor of a name; None if it is a missing optional input, of a node or of the function around it.

    Raises:
        ModelError: see `defined`.
    """
    return None if name in scope and scope[name] is None else defined(scope, name, reader)


def defined(scope: Scope, name: str, reader: str) -> Tensor:
    """Return the tensor of a name.

    Args:
        scope: the tensors that can be read.
        name: the name.
        reader: what reads the tensor, for the message.

    Raises:
        ModelError: there is no such tensor before `reader`.
    """
    tensor = scope.get(name)
    if tensor is None:
        raise ModelError(f"{reader} reads the tensor {name!r}, which nothing before it computes.")
    return tensor


def static_type(tensor: TypeProto.Tensor) -> TypeAndShape:
    """Return the element type and shape of an ONNX tensor type."""
    dims = tensor.shape.dim
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return tensor.elem_type, tuple(d.dim_value for d in dims) if known else None


def dense(sparse: onnx.SparseTensorProto) -> Array:
    """Return a sparse tensor as a dense array."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def with_names(node: NodeProto, inputs: Sequence[Tensor | None]) -> NodeProto:
    """Return the node with its inputs' names in the new graph, for type inference."""
    probe = helper.make_node(node.op_type, ["" if t is None else t.name for t in inputs], node.output, node_name(node))
    probe.attribute.extend(node.attribute)
    return probe
