"""Files: read with a limit, written beside and then renamed."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, PipelineError, SampleError

Array = npt.NDArray[Any]

MAX_TEXT_BYTES = 64 * 1024**2

MAX_SAMPLE_BYTES = 4 * 1024**3


def read_text(path: Path, kind: str, error_type: type[PipelineError]) -> str:
    """Return the text of a configuration or table file.

    Args:
        path: the file.
        kind: what it is, for the message.
        error_type: what to raise.

    Raises:
        PipelineError: of the given type; the file is missing, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise error_type(f"The {kind} {path} has more than {MAX_TEXT_BYTES} bytes.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise error_type(f"The {kind} {path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise error_type(f"The {kind} {path} isn't UTF-8 text.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is either there as a whole or not at all.

    Raises:
        OptionError: the folder doesn't exist or can't be written to.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either there as a whole or not at all; see `write_text`."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OptionError(f"{path} can't be written: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OptionError(f"{path} can't be written: {error.strerror}.") from error


def load_arrays(file: Path) -> Array | dict[str, Array]:
    """Return the array of an .npy file, or the named arrays of an .npz file; pickled objects are refused.

    Raises:
        SampleError: the file can't be read or is too large.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        else:
            size = file.stat().st_size
        if size > MAX_SAMPLE_BYTES:
            raise SampleError(f"Sample {file} has {size} bytes; the limit is {MAX_SAMPLE_BYTES}.")
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SampleError(f"Sample {file} can't be read: {error}") from error
