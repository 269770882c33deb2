"""Libraries with metadata that was changed on purpose."""

from __future__ import annotations

import bz2
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from pipeline.library.metadata import METADATA_SECTION, OPERATORS_SECTION, with_checksum


def with_section(data: bytes, name: str, content: bytes) -> bytes:
    """Return a library in which a section has another content, which is appended; its header points there."""
    elf = ELFFile(io.BytesIO(data))
    header = elf["e_shoff"] + elf.get_section_index(name) * elf["e_shentsize"]
    place = b"".join(value.to_bytes(8, "little") for value in (len(data), len(content)))
    return data[: header + 24] + place + data[header + 40 :] + content


def stored_metadata(data: bytes) -> dict[str, Any]:
    """Return what a library says about itself, read without the code under test."""
    elf = ELFFile(io.BytesIO(data))
    metadata: dict[str, Any] = json.loads(elf.get_section_by_name(METADATA_SECTION).data())
    operators = json.loads(bz2.decompress(elf.get_section_by_name(OPERATORS_SECTION).data()))
    return {**metadata, "operators": operators}


def with_metadata(library: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a library with other metadata, and a checksum that fits.

    Args:
        library: as it was built.
        path: what to write.
        change: changes the metadata, in which operators are as they were in older libraries.
    """
    data = library.read_bytes()
    metadata = stored_metadata(data)
    change(metadata)
    operators = json.dumps(metadata.pop("operators", [])).encode()
    data = with_section(data, METADATA_SECTION, json.dumps(metadata).encode())
    path.write_bytes(with_checksum(with_section(data, OPERATORS_SECTION, bz2.compress(operators))))
    return path
