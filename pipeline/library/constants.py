"""The constants of a library, which are in an ELF section of their own that kernels read directly.

If they were constants of TVM's virtual machine, they would be in memory twice, in the library and as the machine's
copies, and making the copies would take most of the time to load a large model. Instead, a kernel gets the offset of a
constant in the section, and asks a function of the library for the address. The system reads pages of the section from
the file when they are first used, and processes share them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

CONSTANTS_SECTION = ".pipeline.constants"
"""Name of the ELF section."""

ADDRESS_FUNCTION = "pipeline_constant"
"""The function that returns the address of a constant for its offset. It isn't visible outside of the library."""

ALIGNMENT = 64
"""Alignment of constants and tensors in bytes: kernels load and store whole vectors."""


class ConstantPool:
    """Collects constants, one after another, each at a multiple of `ALIGNMENT`. Equal constants are stored once."""

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}
        self._size = 0

    def add(self, value: npt.NDArray[Any]) -> int:
        """Add a constant, unless an equal one is there, and return its offset in bytes."""
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
        name: name of the variable.
        dtype: dtype of the constant's values.
        offset: int64; the offset that `ConstantPool.add` has returned.
    """
    type_ = tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")
    return tirx.Bind(tirx.Var(name, type_), tirx.call_pure_extern(type_, ADDRESS_FUNCTION, offset))


def _padding(data: bytes) -> int:
    return -len(data) % ALIGNMENT
