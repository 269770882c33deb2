"""The constants of a library: in a section of its own, which kernels read where the system has mapped it.

Constants of the virtual machine would be in memory twice, in the library and in the machine's copies, and copying them
would be most of a large model's start. Instead a kernel is given a constant's offset in the section, and asks a
function of the library for the address. Pages are read from the file when they are first used, and processes share
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

CONSTANTS_SECTION = ".pipeline.constants"
"""The ELF section that holds them."""

ADDRESS_FUNCTION = "pipeline_constant"
"""The function that returns the address of a constant, given its offset; it isn't visible outside of the library."""

ALIGNMENT = 64
"""Bytes; kernels load whole vectors."""


class ConstantPool:
    """Constants one after another, each at a multiple of `ALIGNMENT`. Equal ones are stored once."""

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}
        self._size = 0

    def add(self, value: npt.NDArray[Any]) -> int:
        """Return the offset of a constant, in bytes."""
        data = np.ascontiguousarray(value).tobytes()
        if data not in self._offsets:
            self._offsets[data] = self._size
            self._size += len(data) + _padding(data)
        return self._offsets[data]

    def data(self) -> bytes:
        """Return the section's contents."""
        return b"".join(part for data in self._offsets for part in (data, bytes(_padding(data))))


def constant_pointer(name: str, dtype: str, offset: tirx.Var) -> tirx.Bind:
    """Return the definition of a variable that points to a constant.

    Args:
        name: of the variable.
        dtype: of the constant's values.
        offset: int64, as `ConstantPool.add` returns it.
    """
    type_ = tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")
    return tirx.Bind(tirx.Var(name, type_), tirx.call_pure_extern(type_, ADDRESS_FUNCTION, offset))


def _padding(data: bytes) -> int:
    return -len(data) % ALIGNMENT
