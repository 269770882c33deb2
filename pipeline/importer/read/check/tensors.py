"""Checks of stored tensors: that their data has the size that their shape and element type imply."""

from __future__ import annotations

import math

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.limits import MAX_RANK, check_tensor_size, element_type, tensor_bytes

MAX_DIMENSION = 2**31 - 1
"""Largest dimension of a stored tensor: more than any file needs, and safe in NumPy's arithmetic."""


def check_declaration(tensor: TensorProto, what: str) -> None:
    """Check a tensor's element type and shape.

    Args:
        tensor: the tensor.
        what: what messages call it.

    Raises:
        ModelError: the element type or a dimension is invalid.
    """
    known = tensor.data_type in TensorProto.DataType.values()
    if not known or tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise ModelError(f"{what} has the element type {element_type(tensor.data_type)}; expected numbers.")
    dims = list(tensor.dims)
    if len(dims) > MAX_RANK or any(not 0 <= d <= MAX_DIMENSION for d in dims):
        raise ModelError(
            f"{what} has the shape {dims}: it must have at most {MAX_RANK} dimensions, each from 0 to {MAX_DIMENSION}."
        )


def check_storage(tensor: TensorProto, what: str) -> None:
    """Check that a tensor has as many values as its shape and element type imply.

    Args:
        tensor: the tensor.
        what: what messages call it.

    Raises:
        ModelError: it has more or fewer values, or they are in another file.
    """
    check_declaration(tensor, what)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"{what} is stored in another file, which is only read together with the model's own file.")
    if tensor.HasField("segment"):
        raise ModelError(f"{what} is stored in segments, which no ONNX tool reads. Export the model again.")
    if tensor.HasField("raw_data"):
        expected, found, unit = tensor_bytes(tensor.dims, tensor.data_type), len(tensor.raw_data), "bytes"
    else:
        expected, unit = _typed_values(tensor), "values"
        found = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if expected != found:
        kind = element_type(tensor.data_type)
        raise ModelError(
            f"{what} is {kind} of the shape {list(tensor.dims)}, which takes {expected} {unit}, but has {found}. "
            "The file is damaged, or was written incorrectly; export the model again."
        )


def _typed_values(tensor: TensorProto) -> int:
    """Return how many entries a tensor's typed field must have; two values of 4 bits or less share one."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    packed = tensor_bytes(tensor.dims, tensor.data_type)
    # Values of 6 bits have an entry each.
    return packed if packed <= (count + 1) // 2 else count


def check_sparse(sparse: SparseTensorProto, what: str) -> None:
    """Check the indices of a sparse tensor, and its size as a dense one.

    Args:
        sparse: the tensor, whose values and indices have been checked by `check_storage`.
        what: what messages call it.

    Raises:
        ModelError: the tensor is too large, or an index is out of range.
    """
    shape = list(sparse.dims)
    check_tensor_size(sparse.values.name, shape, sparse.values.data_type)
    count, places = list(sparse.values.dims), list(sparse.indices.dims)
    if len(count) != 1 or places not in (count, [*count, len(shape)]) or sparse.indices.data_type != TensorProto.INT64:
        raise ModelError(f"{what} has values of the shape {count}, which indices of the shape {places} don't fit.")
    indices = numpy_helper.to_array(sparse.indices)
    limits = np.array(shape if indices.ndim == 2 else [math.prod(shape)])
    if (indices < 0).any() or (indices >= limits).any():
        raise ModelError(f"{what} has indices outside of its shape {shape}. The file is damaged.")
