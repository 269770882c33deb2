"""The constants of a library, which are in an ELF section of their own that kernels read directly.

If they were constants of TVM's virtual machine, they would be in memory twice, in the library and as the machine's
copies, and making the copies would take most of the time to load a large model. Instead, a kernel gets the offset of a
constant, and asks a function of the library for the address. The system reads pages of the section from the file when
they are first used, and processes share them.

Small constants that can be compressed well are the exception: biases, multipliers, and what kernels want widened,
several times, or between zeros. They are in *areas*, one for each dtype, which are compressed in the library, and
expanded when it is loaded. Large constants of int16 that have the values of int8 are stored as such, and widened. An
area that compression would hardly make smaller is part of the section, too. One more
area is the virtual machine's program, which is mostly zeros.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx

from pipeline.library.compression import Area, encode

CONSTANTS_SECTION = ".pipeline.constants"
"""Name of the ELF section."""

PACKED_SECTION = ".pipeline.packed"
"""Name of the ELF section of compressed constants."""

ADDRESS_FUNCTION = "pipeline_constant"
"""The function that returns the address of a constant for its offset. It isn't visible outside of the library."""

ALIGNMENT = 64
"""Alignment of constants and tensors in bytes: kernels load and store whole vectors."""

AREA_BITS = 40
"""An offset has the number of its area above these bits."""

MOST_EXPANDED = 128 * 1024
"""Bytes of a constant that may be compressed: larger ones are worth sharing, and reading when they are used."""

MOST_ORDERS = 512 * 1024
"""The same of bytes without a sign, which are tables and orders of inputs: most of them are alike."""

LARGEST_PROGRAM = 1 << 20
"""Bytes of a program that may be expanded: larger ones hold large constants of operators that have no kernels of ours.
"""

WORTHWHILE = 0.87
"""An area, or a constant of bytes, is compressed to at most so much of its size."""

TABLE_BYTES = 1000
"""About what an area's tables take."""

_EXPANDED_DTYPES = ("int8", "uint8", "int16", "int32", "float32")
"""Of constants that may be compressed; those of int16 only if int8 has their values."""

_WIDENED = "widened"
"""The area of int16 constants that are too large to be compressed, but are stored as int8, which has their values."""

_PROGRAM_DTYPE = "int8"
"""What a program is compressed as: its numbers mostly begin at a multiple of four bytes."""


@dataclass(frozen=True)
class StoredConstants:
    """What a library contains of its constants.

    Attributes:
        constants: for `CONSTANTS_SECTION`.
        packed: for `PACKED_SECTION`, as `expand.c` reads it.
        expanded: bytes of memory that expanding takes.
        program: where the virtual machine's program is: from the beginning of `CONSTANTS_SECTION`, or of what is
            expanded.
        program_expanded: whether that is expanded.
    """

    constants: bytes
    packed: bytes
    expanded: int
    program: int
    program_expanded: bool


@dataclass
class _Part:
    """Constants one after another, by their bytes."""

    offsets: dict[bytes, int] = field(default_factory=dict)
    size: int = 0

    def add(self, data: bytes) -> int:
        if data not in self.offsets:
            self.offsets[data] = self.size
            self.size += len(data) + _padding(data)
        return self.offsets[data]

    def data(self) -> bytes:
        return b"".join(part for data in self.offsets for part in (data, bytes(_padding(data))))


class ConstantPool:
    """Collects constants, one after another, each at a multiple of `ALIGNMENT`. Equal constants are stored once."""

    def __init__(self) -> None:
        self._parts = {name: _Part() for name in ("", _WIDENED, *_EXPANDED_DTYPES)}

    def add(self, value: npt.NDArray[Any]) -> int:
        """Add a constant, unless an equal one is there, and return its offset: see `AREA_BITS`."""
        value = np.ascontiguousarray(value)
        part = _part_of(value)
        return list(self._parts).index(part) << AREA_BITS | self._parts[part].add(value.tobytes())

    @property
    def size(self) -> int:
        """Bytes of all constants."""
        return sum(part.size for part in self._parts.values())

    def stored(self, program: bytes = b"", *, compressed: bool = True) -> StoredConstants:
        """Return what the library contains of all constants.

        Args:
            program: of the virtual machine, which is an area of its own.
            compressed: whether areas are compressed, which takes time that isn't worth it for a temporary library.
        """
        constants, expanded, scratch = b"", 0, 0
        headers, coded = [], []
        program += bytes(_padding(program))
        parts = [(dtype, part.data()) for dtype, part in self._parts.items()]
        for dtype, data in (*parts, (_PROGRAM_DTYPE, program)):
            if dtype == _WIDENED and compressed and data:
                headers.append((expanded, len(data), 0, 1, 0, 0, len(constants), 0))
                constants += np.frombuffer(data, "int16").astype("int8").tobytes()
                expanded += len(data)
                continue
            expandable = dtype not in ("", _WIDENED) and data and (data is not program or len(data) <= LARGEST_PROGRAM)
            area = Area.of(data, dtype) if compressed and expandable else None
            if area is None or area.coded_bytes() + TABLE_BYTES > WORTHWHILE * len(data):
                headers.append((len(constants), len(data), 0, 0, 0, 0, 0, 0))
                constants += data
                continue
            period = len(area.granules.tables)
            header = expanded, area.size, 1, area.widened, area.differences, period, area.literals, area.numbered
            headers.append(header)
            coded.append(area)
            expanded += area.size
            scratch = max(scratch, expanded + area.scratch)
        states, words, tables = encode(coded)
        numbers = np.array([len(headers), len(words) // 2, *(field for each in headers for field in each)], "<i4")
        packed = numbers.tobytes() + states + words + tables
        return StoredConstants(
            constants, packed, max(scratch, expanded), headers[-1][0], program_expanded=bool(headers[-1][2])
        )


def constant_pointer(name: str, dtype: str, offset: tirx.Var) -> tirx.Bind:
    """Return the definition of a variable that points to a constant.

    Args:
        name: name of the variable.
        dtype: dtype of the constant's values.
        offset: int64; the offset that `ConstantPool.add` has returned.
    """
    type_ = tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")
    return tirx.Bind(tirx.Var(name, type_), tirx.call_pure_extern(type_, ADDRESS_FUNCTION, offset))


def _part_of(value: npt.NDArray[Any]) -> str:
    """Return the part that a constant belongs to: a dtype, if it may be compressed."""
    dtype, narrow = str(value.dtype), False
    if dtype == "int16":
        narrow = bool((value == value.astype("int8")).all())
    if dtype not in _EXPANDED_DTYPES or not 0 < value.nbytes <= (MOST_ORDERS if dtype == "uint8" else MOST_EXPANDED):
        return _WIDENED if narrow else ""
    if dtype == "int16":
        return dtype if narrow else ""
    if dtype == "int8":
        return dtype if _is_compressed(value.tobytes()) else ""
    return dtype


_compressed: dict[bytes, bool] = {}
"""Whether int8 constants are compressed, by their digest: weights of programs that differ in biases are the same."""


def _is_compressed(data: bytes) -> bool:
    """Return whether an int8 constant would be so much smaller that it is compressed."""
    digest = hashlib.sha256(data).digest()
    if digest not in _compressed:
        _compressed[digest] = Area.of(data + bytes(_padding(data)), "int8").coded_bytes() < WORTHWHILE * len(data)
    return _compressed[digest]


def _padding(data: bytes) -> int:
    return -len(data) % ALIGNMENT
