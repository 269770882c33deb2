"""How large a model and its tensors may be: checked before any memory is taken for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from onnx import TensorProto

from pipeline.errors import ModelError
from pipeline.ir.types import MAX_TENSOR_BYTES

MAX_NODES = 100_000
"""Of a model once its loops and functions are written out: a file of a few lines can ask for any number."""

MAX_RANK = 64
"""NumPy's own limit."""

_NAMES: Mapping[int, str] = {number: name.lower() for name, number in TensorProto.DataType.items()}

_BITS_UNWRITTEN = {TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.BOOL: 8}
"""Element types whose names don't say how many bits they have, as those of int8 or float8e4m3fn do."""


def tensor_bytes(shape: Sequence[int], dtype: int) -> int:
    """Return how many bytes a tensor takes, packed as ONNX packs it.

    Args:
        shape: sizes, none negative.
        dtype: ONNX's element type. One without a known size, as text has none, counts as a byte an element.
    """
    written = re.search(r"\d+", _NAMES.get(dtype, ""))
    bits = int(written[0]) if written else _BITS_UNWRITTEN.get(dtype, 8)
    return (math.prod(shape) * bits + 7) // 8


def check_tensor_size(name: str, shape: Sequence[int], dtype: int, limit: int = MAX_TENSOR_BYTES) -> None:
    """Refuse a tensor that can't be, or that is too large to be meant.

    Args:
        name: the tensor's.
        shape: its sizes.
        dtype: ONNX's element type (`onnx.TensorProto.FLOAT` and so on).
        limit: in bytes.

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
    """Return what ONNX calls an element type, such as 'float' or 'int64', also where it doesn't know it."""
    return _NAMES.get(dtype, f"unknown type {dtype}")
