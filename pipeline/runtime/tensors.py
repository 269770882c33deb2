"""Prepares inputs for a library: checks them against its metadata, converts and aligns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from pipeline.conversion import ConversionError, convert, may_convert
from pipeline.errors import SampleError
from pipeline.ir.program import TensorSpec
from pipeline.ir.types import TensorType

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Tensor: TypeAlias = Any
"""An array, anything that NumPy can make an array of, or a tensor with `__dlpack__` in this machine's memory."""

ALIGNMENT = 64
"""Alignment of inputs in bytes: kernels load whole vectors."""


class HasShapeAndDtype(Protocol):
    """An array whose values needn't be in memory, such as an array in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        ...


def prepare_feeds(feeds: Mapping[str, Tensor], inputs: Sequence[TensorSpec]) -> list[Array]:
    """Return the inputs in the model's order, contiguous and aligned to 64 bytes, as kernels need them.

    Arrays that are so already are returned as they are; others are copied. The batch axis of a batch of one may be
    missing, and values of another dtype are converted unless information would be lost; see `conversion`.

    Args:
        feeds: arrays, or tensors with `__dlpack__`, by input name.
        inputs: the model's inputs.

    Raises:
        SampleError: an input is missing, unknown, or of the wrong shape, dtype or value.
    """
    _check_names(feeds, inputs)
    return [_aligned_input(spec, _as_array(spec, feeds[spec.name])) for spec in inputs]


def check_feed_types(arrays: Mapping[str, HasShapeAndDtype], inputs: Sequence[TensorSpec]) -> None:
    """Check names, shapes and dtypes of inputs, as `prepare_feeds` does, without reading values.

    Raises:
        SampleError: see `prepare_feeds`.
    """
    _check_names(arrays, inputs)
    for spec in inputs:
        _check_type(spec, arrays[spec.name])


def _check_names(feeds: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> None:
    names = [i.name for i in inputs]
    missing = [name for name in names if name not in feeds]
    unknown = [name for name in feeds if name not in names]
    if missing or unknown:
        wrong = [f"missing: {', '.join(missing)}"] if missing else []
        wrong += [f"unknown: {', '.join(unknown)}"] if unknown else []
        expected = ", ".join(f"{i.name!r} {list(i.shape)} {i.dtype}" for i in inputs)
        raise SampleError(f"The inputs don't fit the model ({'; '.join(wrong)}). Expected {expected}.")


def random_feeds(inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return random inputs by name, the same each time; for measuring times, which don't depend on values."""
    random = np.random.default_rng(0)
    return {i.name: random.standard_normal(i.shape).astype(i.dtype) for i in inputs}


def _as_array(spec: TensorSpec, value: Tensor) -> Array:
    """Return a tensor as an array, which shares its memory if the tensor has `__dlpack__`.

    Raises:
        SampleError: the tensor is on another device, or NumPy doesn't have its dtype.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise SampleError(
            f"Input {spec.name!r} can't be read as an array: {error}. Expected {list(spec.shape)} and {spec.dtype}, in "
            "the memory of this machine."
        ) from error


def _check_type(spec: TensorSpec, value: HasShapeAndDtype) -> None:
    if value.shape not in _shapes(spec) or not may_convert(value.dtype, np.dtype(spec.dtype)):
        raise SampleError(
            f"Input {spec.name!r} has the shape {list(value.shape)} and dtype {value.dtype}; "
            f"expected {list(spec.shape)} and {spec.dtype}."
        )


def _shapes(spec: TensorSpec) -> tuple[tuple[int, ...], ...]:
    """Return the shapes that an array for an input may have: the input's, and without its batch axis if that is 1."""
    return (spec.shape, spec.shape[1:]) if spec.shape[:1] == (1,) else (spec.shape,)


def _aligned_input(spec: TensorSpec, value: Array) -> Array:
    if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
        value = _converted(spec, value)
    # DLPack can't export read-only memory.
    if value.flags.c_contiguous and value.flags.writeable and value.ctypes.data % ALIGNMENT == 0:
        return value
    return aligned(value)


def _converted(spec: TensorSpec, value: Array) -> Array:
    _check_type(spec, value)
    try:
        return convert(value, np.dtype(spec.dtype)).reshape(spec.shape)
    except ConversionError as error:
        raise SampleError(f"Input {spec.name!r} {error}.") from error


def aligned(value: Array) -> Array:
    """Return a copy that is contiguous and aligned to 64 bytes."""
    copy = aligned_zeros(value.shape, str(value.dtype))
    copy[...] = value
    return copy


def aligned_zeros(shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array of zeros that is contiguous and aligned to 64 bytes."""
    nbytes = TensorType(shape, dtype).nbytes
    memory = np.zeros(nbytes + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    buffer: Array = memory[start : start + nbytes].view(dtype).reshape(shape)
    return buffer
