"""Inputs as a library takes them: checked against its metadata, contiguous and aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from pipeline.errors import SampleError
from pipeline.program import TensorSpec

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ALIGNMENT = 64
"""Bytes; kernels load whole vectors."""


def check_feeds(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[Array]:
    """Return the inputs in order, contiguous and aligned to 64 bytes, as kernels need them; others are copied.

    Raises:
        SampleError: an input is missing, unknown, or of the wrong shape or dtype.
    """
    expected = ", ".join(f"{i.name!r} {list(i.shape)} {i.dtype}" for i in inputs)
    names = [i.name for i in inputs]
    missing = [name for name in names if name not in feeds]
    unknown = [name for name in feeds if name not in names]
    if missing or unknown:
        wrong = [f"missing: {', '.join(missing)}"] if missing else []
        wrong += [f"unknown: {', '.join(unknown)}"] if unknown else []
        raise SampleError(f"The inputs don't fit the model ({'; '.join(wrong)}). Expected {expected}.")
    return [_checked(spec, np.asarray(feeds[spec.name])) for spec in inputs]


def noise(inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return seeded noise as inputs by name: for measuring times, which don't depend on it."""
    random = np.random.default_rng(0)
    return {i.name: random.standard_normal(i.shape).astype(i.dtype) for i in inputs}


def _checked(spec: TensorSpec, value: Array) -> Array:
    if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
        raise SampleError(
            f"Input {spec.name!r} has the shape {list(value.shape)} and dtype {value.dtype}; "
            f"expected {list(spec.shape)} and {spec.dtype}."
        )
    # DLPack can't hand over memory that must not be written to.
    if value.flags.c_contiguous and value.flags.writeable and value.ctypes.data % ALIGNMENT == 0:
        return value
    return aligned(value)


def aligned(value: Array) -> Array:
    """Return a copy that is contiguous and aligned to 64 bytes."""
    memory = np.empty(value.nbytes + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    copy: Array = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy
