"""Finds a section of an ELF file without trusting it: every offset and size is checked before it is followed.

Of the format (System V ABI, "Object Files"), this knows what leads to a section of a given name, in files of either
word size and byte order.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

_MAGIC = b"\x7fELF"
_IDENTIFICATION = 16
"""Bytes at the file's beginning that have the same meaning in every file."""

_BYTE_ORDERS = {1: "<", 2: ">"}
_EXTENDED_COUNT = 0
_EXTENDED_NAMES_INDEX = 0xFFFF
"""What the header holds in place of the section count and the index of the names if they don't fit it."""

_NO_BITS = 8
"""Type of a section that occupies no space in the file."""


class ElfError(ValueError):
    """The bytes aren't an ELF file, or its headers lead outside of it."""


@dataclass(frozen=True)
class _Layout:
    """Of the headers, by word size.

    Attributes:
        file_header: behind the identification: e_shoff, e_shentsize, e_shnum, e_shstrndx; other fields are skipped.
        section_header: sh_name, sh_type, sh_offset, sh_size.
    """

    file_header: str
    section_header: str


_LAYOUTS = {1: _Layout("16xI10xHHH", "II8xII"), 2: _Layout("24xQ10xHHH", "II16xQQ")}


@dataclass(frozen=True)
class Section:
    """Where a section's bytes are in its file."""

    offset: int
    size: int


def find_section(file: BinaryIO, name: str) -> Section | None:
    """Return the first section of a name; None if there is none.

    Args:
        file: an open ELF file.
        name: of the section.

    Raises:
        ElfError: it isn't an ELF file, or is damaged.
    """
    end = file.seek(0, os.SEEK_END)
    identification = _read(file, Section(0, _IDENTIFICATION), end)
    layout, order = _LAYOUTS.get(identification[4]), _BYTE_ORDERS.get(identification[5])
    if identification[:4] != _MAGIC or layout is None or order is None:
        raise ElfError("it has no ELF header")
    header = struct.Struct(order + layout.file_header)
    table, entry, count, names_index = header.unpack(_read(file, Section(_IDENTIFICATION, header.size), end))
    section = struct.Struct(order + layout.section_header)
    if count == _EXTENDED_COUNT or names_index == _EXTENDED_NAMES_INDEX or entry < section.size:
        raise ElfError(f"its header tells of {count} sections, described in {entry} bytes each")
    headers = _read(file, Section(table, entry * count), end)
    found = [section.unpack_from(headers, entry * i) for i in range(count)]
    if names_index >= count:
        raise ElfError(f"its names are in section {names_index} of {count}")
    names = _read(file, Section(*found[names_index][2:]), end)
    wanted = name.encode() + b"\0"
    for start, kind, offset, size in found:
        if kind != _NO_BITS and names.startswith(wanted, start):
            _check(Section(offset, size), end)
            return Section(offset, size)
    return None


def _read(file: BinaryIO, section: Section, end: int) -> bytes:
    _check(section, end)
    file.seek(section.offset)
    return file.read(section.size)


def _check(section: Section, end: int) -> None:
    if section.offset + section.size > end:
        raise ElfError(f"it claims {section.size} bytes at {section.offset}, and has {end}")
