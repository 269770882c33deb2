"""Loads weights from external files, which must be regular files below the model's folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from onnx import ModelProto, TensorProto

from pipeline.errors import ModelError
from pipeline.importer.limits import tensor_bytes
from pipeline.importer.read.check.contents import stored_tensors
from pipeline.importer.read.check.tensors import check_declaration

MAX_EXTERNAL_BYTES = 2 * 1024**3 - 1
"""Most bytes that all external weights may take together: as many as the model's own file may have."""

_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
"""Known keys of entries. As in ONNX's own library, checksums aren't verified, and base paths aren't used."""


def load_external(model: ModelProto, path: Path, digest: hashlib._Hash) -> None:
    """Load all external tensors into the model, also those in attributes, subgraphs and functions.

    Args:
        model: the model, changed in place.
        path: the model's file.
        digest: updated with the bytes of all tensors that are loaded.

    Raises:
        ModelError: a tensor's entry is invalid, its file isn't below the model's folder or can't be read, or all
            tensors together are larger than `MAX_EXTERNAL_BYTES`.
    """
    folder = Path(os.path.realpath(path.parent))
    total = 0
    for tensor, what in stored_tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        check_declaration(tensor, what)
        size = tensor_bytes(tensor.dims, tensor.data_type)
        total += size
        if total > MAX_EXTERNAL_BYTES:
            raise ModelError(f"its external weights take more than {MAX_EXTERNAL_BYTES} bytes, which is the limit.")
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        tensor.raw_data = _read(tensor, what, size, folder)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)


def _read(tensor: TensorProto, what: str, size: int, folder: Path) -> bytes:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key not in _KEYS or entry.key in entries:
            problem = " twice" if entry.key in _KEYS else ", which isn't known"
            raise ModelError(
                f"the external data of {what} has the key {entry.key!r}{problem}. Known: {', '.join(sorted(_KEYS))}."
            )
        entries[entry.key] = entry.value
    location = entries.get("location", "")
    offset, length = _number(entries, "offset", 0, what), _number(entries, "length", size, what)
    if length != size:
        raise ModelError(
            f"{what} has the shape {list(tensor.dims)}, which takes {size} bytes, but its external data in "
            f"{location!r} has {length}."
        )
    file = _file(folder, location, what)
    try:
        with file.open("rb") as stream:
            available = os.fstat(stream.fileno()).st_size
            if offset + length > available:
                raise ModelError(
                    f"{what} takes {length} bytes from byte {offset} of {location!r}, which has {available}. "
                    "That file is truncated, or belongs to another model."
                )
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise ModelError(f"{what} can't be read from {location!r}: {error.strerror}.") from error


def _number(entries: dict[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    # No file needs twenty digits, and Python refuses to convert thousands of them.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{what} has the {key} {text[:40]!r} in its external data; expected a number of bytes.")
    return int(text)


def _file(folder: Path, location: str, what: str) -> Path:
    file = None if not location or "\0" in location else Path(os.path.realpath(folder / location))
    try:
        found = file is not None and file.is_relative_to(folder) and file.is_file()
    except OSError:  # such as a name that is too long
        found = False
    if file is None or not found:
        raise ModelError(
            f"{what} is stored in {location[:200]!r}, which isn't a file below the model's folder. "
            "Copy the model's data files into its folder, under the names that they were exported with."
        )
    return file
