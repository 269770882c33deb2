"""What is known of the tensors of a graph that is being specialized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TypeProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.onnx_nodes import title

Array = npt.NDArray[Any]

TypeAndShape = tuple[int, "tuple[int, ...] | None"]
"""A tensor's element type and shape, 0 and None where they aren't known."""


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


def optional_input(scope: Scope, name: str, reader: str) -> Tensor | None:
    """Return what a name stands for; None if it is an optional input, of the node or of its function, not given."""
    return None if name in scope and scope[name] is None else defined(scope, name, reader)


def defined(scope: Scope, name: str, reader: str) -> Tensor:
    """Return what a name stands for.

    Raises:
        ModelError: nothing that comes before `reader` has that name.
    """
    tensor = scope.get(name)
    if tensor is None:
        raise ModelError(f"{reader} reads the tensor {name!r}, which nothing before it computes.")
    return tensor


def static_type(tensor: TypeProto.Tensor) -> TypeAndShape:
    """Return the element type and shape that ONNX's inference has found."""
    dims = tensor.shape.dim
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in dims)
    return tensor.elem_type, tuple(d.dim_value for d in dims) if known else None


def dense(sparse: onnx.SparseTensorProto) -> Array:
    """Return a sparse tensor with all its zeros."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def with_names(node: NodeProto, inputs: Sequence[Tensor | None]) -> NodeProto:
    """Return the node with the new graph's names, for the inference of its type."""
    probe = helper.make_node(node.op_type, ["" if t is None else t.name for t in inputs], node.output, title(node))
    probe.attribute.extend(node.attribute)
    return probe
