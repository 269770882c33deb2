"""Libraries with metadata that was changed on purpose."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.library.elf import find_section
from pipeline.library.metadata import METADATA_SECTION, with_checksum


def with_metadata(library: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a library with other metadata, and a checksum that fits.

    Args:
        library: as it was built.
        path: what to write.
        change: changes the metadata. Before, all operators but one are left out of it, so that there is room.
    """
    data = library.read_bytes()
    section = find_section(io.BytesIO(data), METADATA_SECTION)
    assert section is not None
    start, end = section.offset, section.offset + section.size
    metadata = json.loads(data[start:end])
    metadata["operators"] = metadata["operators"][:1]
    change(metadata)
    text = json.dumps(metadata).encode()
    assert len(text) <= section.size
    path.write_bytes(with_checksum(data[:start] + text.ljust(section.size) + data[end:]))
    return path
