"""Finds sections and undefined symbols of an ELF file. Offsets are checked, so that damaged files do no harm.

The format is described in the System V ABI, chapter "Object Files"; both word sizes and byte orders are supported.
Every process that runs a library imports this module. pyelftools would take 21 ms to import (`python -X importtime`),
as long as all other modules that a runner imports, NumPy left aside. Tests compare the two.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Set
from dataclasses import dataclass
from typing import BinaryIO

_MAGIC = b"\x7fELF"
_IDENTIFICATION = 16
"""Number of bytes at the beginning of a file that have the same meaning in every ELF file."""

_BYTE_ORDERS = {1: "<", 2: ">"}
_EXTENDED_COUNT = 0
_EXTENDED_NAMES_INDEX = 0xFFFF
"""Values of the header's section count and index of names which mean that the real ones are elsewhere."""

_NO_BITS = 8
"""Type of a section that occupies no space in the file."""


class ElfError(ValueError):
    """The bytes aren't an ELF file, or an offset in it is outside of the file."""


@dataclass(frozen=True)
class _Layout:
    """Layouts of headers for a word size, as formats of `struct`.

    Attributes:
        file_header: behind the identification: e_shoff, e_shentsize, e_shnum, e_shstrndx; other fields are skipped.
        section_header: sh_name, sh_type, sh_offset, sh_size.
        flags: sh_flags, which are at `_FLAGS_OFFSET` of a section's header.
        symbol: st_name, st_shndx.
    """

    file_header: str
    section_header: str
    flags: str
    symbol: str


_LAYOUTS = {1: _Layout("16xI10xHHH", "II8xII", "I", "I10xH"), 2: _Layout("24xQ10xHHH", "II16xQQ", "Q", "I2xH16x")}

_FLAGS_OFFSET = 8

_EXCLUDED = 1 << 31
"""Flag of sections that linkers leave out of what they link: SHF_EXCLUDE."""

_UNDEFINED = 0
"""Section index of undefined symbols, which are defined in another library."""


@dataclass(frozen=True)
class Section:
    """Where a section's bytes are in its file."""

    offset: int
    size: int


def find_section(file: BinaryIO, name: str) -> Section | None:
    """Return the first section with a name; None if there is none.

    Args:
        file: an open ELF file.
        name: the section's name.

    Raises:
        ElfError: the file isn't an ELF file, or is damaged.
    """
    return _ElfFile(file).section(name)


def undefined_symbols(file: BinaryIO) -> set[str]:
    """Return the names of the symbols that a shared library needs from other libraries; see `find_section`."""
    return _ElfFile(file).undefined_symbols()


def with_sections_excluded(content: bytes, names: Set[str]) -> bytes:
    """Return an object file without some of its sections, as far as linkers are concerned.

    Args:
        content: the object file.
        names: names of sections. What relocates them is left out by linkers by itself.

    Raises:
        ElfError: the file isn't an ELF file, or is damaged.
    """
    changed = bytearray(content)
    for place, flags in _ElfFile(io.BytesIO(content)).flags(names).items():
        changed[place : place + len(flags)] = flags
    return bytes(changed)


class _ElfFile:
    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, file.seek(0, os.SEEK_END)
        identification = self._read(Section(0, _IDENTIFICATION))
        layout, order = _LAYOUTS.get(identification[4]), _BYTE_ORDERS.get(identification[5])
        if identification[:4] != _MAGIC or layout is None or order is None:
            raise ElfError("it has no ELF header")
        self._symbol, self._flags = struct.Struct(order + layout.symbol), struct.Struct(order + layout.flags)
        header, entry_layout = struct.Struct(order + layout.file_header), struct.Struct(order + layout.section_header)
        table, size, count, names_index = header.unpack(self._read(Section(_IDENTIFICATION, header.size)))
        if count == _EXTENDED_COUNT or names_index == _EXTENDED_NAMES_INDEX or size < entry_layout.size:
            raise ElfError(f"its header tells of {count} sections, described in {size} bytes each")
        self._starts = range(table, table + size * count, size)
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

    def flags(self, names: Set[str]) -> dict[int, bytes]:
        """Return the flags of sections with `_EXCLUDED`, by the place in the file where they belong."""
        wanted = [name.encode() + b"\0" for name in names]
        places = [
            start + _FLAGS_OFFSET
            for start, header in zip(self._starts, self._headers, strict=True)
            if any(self._names.startswith(name, header[0]) for name in wanted)
        ]
        stored = {place: self._flags.unpack(self._read(Section(place, self._flags.size)))[0] for place in places}
        return {place: self._flags.pack(flags | _EXCLUDED) for place, flags in stored.items()}

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
