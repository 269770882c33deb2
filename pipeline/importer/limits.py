"""Limits of the size of models and tensors, checked before memory is allocated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.ir.types import MAX_TENSOR_BYTES

MAX_NODES = 100_000
"""Most nodes of a model after its loops and functions are expanded, which can make any number of a small file."""

MAX_RANK = 64
"""Most dimensions of a tensor: NumPy's limit."""

_NAMES: Mapping[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}

_BITS_UNWRITTEN = {TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.BOOL: 8}
"""Numbers of bits of the element types whose names don't say it, as `int8` or `float8e4m3fn` do."""


def tensor_bytes(shape: Sequence[int], dtype: int) -> int:
    """Return how many bytes a tensor takes, packed as ONNX packs it.

    Args:
        shape: its sizes, at least 0.
        dtype: ONNX's element type. Elements of unknown size, such as strings, count as one byte.
    """
    written = re.search(r"\d+", _NAMES.get(dtype, ""))
    bits = int(written[0]) if written else _BITS_UNWRITTEN.get(dtype, 8)
    return (math.prod(shape) * bits + 7) // 8


def check_tensor_size(name: str, shape: Sequence[int], dtype: int, limit: int = MAX_TENSOR_BYTES) -> None:
    """Refuse a tensor whose shape is invalid or too large.

    Args:
        name: the tensor's name.
        shape: its sizes.
        dtype: ONNX's element type (`onnx.TensorProto.FLOAT` and so on).
        limit: the most bytes that it may take.

    Raises:
        ModelError: a size is negative, there are too many of them, or the tensor takes more than `limit` bytes.
    """
    if len(shape) > MAX_RANK:
        raise ModelError(f"Tensor {name!r} has {len(shape)} dimensions; the limit is {MAX_RANK}.")
    if any(size < 0 for size in shape):
        raise ModelError(
            f"Tensor {name!r} has the shape {list(shape)}: a size is negative. Check the sizes, pads and windows of "
            "the nodes that lead to it, and the shapes given."
        )
    size = tensor_bytes(shape, dtype)
    if size > limit:
        raise ModelError(
            f"Tensor {name!r} has the shape {list(shape)} and takes {size} bytes; the limit is {limit}. "
            "Check the sizes, pads and scales of the nodes that lead to it, and the shapes given."
        )


def element_type(dtype: int) -> str:
    """Return ONNX's name of an element type, such as `float` or `int64`; `unknown type N` for an unknown number."""
    return _NAMES.get(dtype, f"unknown type {dtype}")
