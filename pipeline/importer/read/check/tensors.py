"""Checks of stored tensors: what they say they hold must be what they hold, before memory is taken for it."""

from __future__ import annotations

import math

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.importer.limits import MAX_RANK, check_tensor_size, element_type, tensor_bytes

MAX_DIMENSION = 2**31 - 1
"""Of a stored tensor; more than any file has, and small enough for every product that NumPy forms."""


def check_declaration(tensor: TensorProto, what: str) -> None:
    """Check what a tensor says it is.

    Args:
        tensor: the tensor.
        what: it, for messages.

    Raises:
        ModelError: its element type or a dimension can't be.
    """
    known = tensor.data_type in TensorProto.DataType.values()
    if not known or tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        raise ModelError(f"{what} has the element type {element_type(tensor.data_type)}; expected numbers.")
    dims = list(tensor.dims)
    if len(dims) > MAX_RANK or any(not 0 <= d <= MAX_DIMENSION for d in dims):
        raise ModelError(f"{what} has the shape {dims}: sizes must be 0 to {MAX_DIMENSION}, and {MAX_RANK} at most.")


def check_storage(tensor: TensorProto, what: str) -> None:
    """Check that a tensor holds as many values as its shape asks for.

    Args:
        tensor: the tensor; its values must be in it, not in another file.
        what: it, for messages.

    Raises:
        ModelError: it doesn't, or its values are elsewhere.
    """
    check_declaration(tensor, what)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"{what} lies in another file, which is only read along with the model's own file.")
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
            f"{what} says it is {kind} of the shape {list(tensor.dims)}, {expected} {unit}, but holds {found}. "
            "The file is damaged, or was written wrongly; export the model again."
        )


def _typed_values(tensor: TensorProto) -> int:
    """Return how many entries a tensor's typed field must have; values below 8 bits may share one."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return 2 * count
    packed = tensor_bytes(tensor.dims, tensor.data_type)
    # Of the narrow types, those of 6 bits have an entry each.
    return packed if packed <= (count + 1) // 2 else count


def check_sparse(sparse: SparseTensorProto, what: str) -> None:
    """Check a sparse tensor whose parts have been checked: where its values lie, and its size when it is spread out.

    Raises:
        ModelError: it is too large, or a value lies outside of it.
    """
    shape = list(sparse.dims)
    check_tensor_size(sparse.values.name, shape, sparse.values.data_type)
    count, places = list(sparse.values.dims), list(sparse.indices.dims)
    if len(count) != 1 or places not in (count, [*count, len(shape)]) or sparse.indices.data_type != TensorProto.INT64:
        raise ModelError(f"{what} holds values of the shape {count} at indices of the shape {places}, which don't fit.")
    indices = numpy_helper.to_array(sparse.indices)
    limits = np.array(shape if indices.ndim == 2 else [math.prod(shape)])
    if (indices < 0).any() or (indices >= limits).any():
        raise ModelError(f"{what} of the shape {shape} holds values outside of it. The file is damaged.")
