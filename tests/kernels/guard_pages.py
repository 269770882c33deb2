"""Tensors that end right before memory without access, so that touching a byte behind them ends the process."""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes: what TVM's tensors begin at a multiple of."""


def guarded(shape: tuple[int, ...], dtype: str) -> Array:
    """Return an array that is followed by a page without access."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) != 0:
        raise OSError("mprotect failed")
    return np.frombuffer(memory, dtype, math.prod(shape), pages * mmap.PAGESIZE - size).reshape(shape)


def place(value: Array) -> Array:
    """Return a copy that begins at a multiple of `ALIGNMENT`: at the end of a page, unless its size forbids that."""
    copy = _aligned(value) if value.nbytes % ALIGNMENT else guarded(value.shape, str(value.dtype))
    copy[...] = value
    return copy


def _aligned(value: Array) -> Array:
    memory = np.empty(value.nbytes + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
