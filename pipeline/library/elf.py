"""Finds sections and undefined symbols of an ELF file without trusting it: what leads out of the file isn't followed.

Of the format (System V ABI, "Object Files"), this knows no more, in files of either word size and byte order. Whoever
runs a library waits for this module: pyelftools would take 21 ms to import (`python -X importtime`), as long as all
else that a runner imports beside NumPy. The tests compare the two.
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
        symbol: st_name, st_shndx.
    """

    file_header: str
    section_header: str
    symbol: str


_LAYOUTS = {1: _Layout("16xI10xHHH", "II8xII", "I10xH"), 2: _Layout("24xQ10xHHH", "II16xQQ", "I2xH16x")}

_UNDEFINED = 0
"""The section of symbols that are elsewhere."""


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
    return _ElfFile(file).section(name)


def undefined_symbols(file: BinaryIO) -> set[str]:
    """Return the names of what a shared library takes from elsewhere; see `find_section`."""
    return _ElfFile(file).undefined_symbols()


class _ElfFile:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, file.seek(0, os.SEEK_END)
        identification = self._read(Section(0, _IDENTIFICATION))
        layout, order = _LAYOUTS.get(identification[4]), _BYTE_ORDERS.get(identification[5])
        if identification[:4] != _MAGIC or layout is None or order is None:
            raise ElfError("it has no ELF header")
        self._symbol = struct.Struct(order + layout.symbol)
        header, entry_layout = struct.Struct(order + layout.file_header), struct.Struct(order + layout.section_header)
        table, size, count, names_index = header.unpack(self._read(Section(_IDENTIFICATION, header.size)))
        if count == _EXTENDED_COUNT or names_index == _EXTENDED_NAMES_INDEX or size < entry_layout.size:
            raise ElfError(f"its header tells of {count} sections, described in {size} bytes each")
        headers = self._read(Section(table, size * count))
        self._headers = [entry_layout.unpack_from(headers, size * i) for i in range(count)]
        if names_index >= count:
            raise ElfError(f"its names are in section {names_index} of {count}")
        self._names = self._read(Section(*self._headers[names_index][2:]))

    def section(self, name: str) -> Section | None:
        wanted = name.encode() + b"\0"
        for start, kind, offset, size in self._headers:
            if kind != _NO_BITS and self._names.startswith(wanted, start):
                self._check(Section(offset, size))
                return Section(offset, size)
        return None

    def undefined_symbols(self) -> set[str]:
        table, texts = self.section(".dynsym"), self.section(".dynstr")
        if table is None or texts is None:
            return set()
        symbols, names = self._read(table), self._read(texts)
        whole = len(symbols) // self._symbol.size * self._symbol.size
        undefined = [name for name, section in self._symbol.iter_unpack(symbols[:whole]) if section == _UNDEFINED]
        return {names[start:].partition(b"\0")[0].decode() for start in undefined if start} - {""}

    def _read(self, section: Section) -> bytes:
        self._check(section)
        self._file.seek(section.offset)
        return self._file.read(section.size)

    def _check(self, section: Section) -> None:
        if section.offset + section.size > self._end:
            raise ElfError(f"it claims {section.size} bytes at {section.offset}, and has {self._end}")
