"""Reads files up to a limit of size, and writes them completely or not at all."""

from __future__ import annotations

import errno
import io
import lzma
import math
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, PipelineError, SampleError

Array = npt.NDArray[Any]

MAX_TEXT_BYTES = 64 * 1024**2
"""Largest size of configuration files and tables."""

MAX_SAMPLE_BYTES = 2 * 1024**3
"""Largest size of all arrays in one file together, which is also the largest size of a tensor."""


def read_text(path: Path, kind: str, error_type: type[PipelineError]) -> str:
    """Return the text of a configuration or table file.

    Args:
        path: the file.
        kind: what messages call it, such as "target file".
        error_type: the class of errors to raise.

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


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, unless they exist, and return it.

    Raises:
        OptionError: the folder can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"The output folder {path} can't be made: {error.strerror}.") from error
    return path


def check_writable(path: Path) -> None:
    """Refuse a file that can't be written, before any work is done.

    Raises:
        OptionError: its folder doesn't exist or isn't writable, or the path is a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        raise OptionError(f"The folder {folder} of the output {path} doesn't exist.")
    if path.is_dir():
        raise OptionError(f"The output {path} is a folder; give a file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"The folder {folder} of the output {path} isn't writable: {error.strerror}.") from error


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder for the block.

    Args:
        prefix: what its name begins with.

    Raises:
        OptionError: it can't be made, or is on a file system that becomes full.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise OptionError(f"A temporary folder can't be made: {error.strerror}. {_OTHER_FOLDER}") from error
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OptionError(f"{tempfile.gettempdir()} is full: {error.strerror}. {_OTHER_FOLDER}") from error


_OTHER_FOLDER = "Set TMPDIR to a folder that can be written to and has space."


def write_text(path: Path, text: str) -> None:
    """Write a text file: under a temporary name first, so that an incomplete file never has the final name.

    Raises:
        OptionError: the folder doesn't exist or can't be written to.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; see `write_text`."""
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
        raise OptionError(f"{path} can't be written: {error.strerror}.") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file. Its header has been read, and its size fits the file's; its values haven't been read.

    Attributes:
        file: the .npy or .npz file.
        entry: name of the array's entry in the .npz file; "" for an .npy file.
        shape: the array's shape.
        dtype: the array's dtype; never objects.
        column_major: whether the first index varies fastest.
        start: where the values begin, in bytes from the beginning of the .npy file or of the entry.
    """

    file: Path
    entry: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool
    start: int

    @property
    def nbytes(self) -> int:
        """How much memory the array takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self) -> Array:
        """Return the array.

        Raises:
            SampleError: the file can't be read, is damaged, or the array takes more than `MAX_SAMPLE_BYTES`.
        """
        check_size(self.file, self.nbytes)
        elements = np.empty(math.prod(self.shape), self.dtype)
        with _reading(self.file), _opened(self.file, self.entry) as stream:
            stream.read(self.start)
            filled, memory = 0, elements.view("uint8").data
            while filled < self.nbytes:
                count = stream.readinto(memory[filled : filled + _CHUNK_BYTES])
                if not count:
                    raise ValueError(f"it ends after {filled} of {self.nbytes} bytes of values")
                filled += count
        return elements.reshape(self.shape, order="F" if self.column_major else "C")


def arrays_digest(arrays: Mapping[str, Array]) -> bytes:
    """Return the SHA-256 of arrays with their names, dtypes and shapes."""
    # Only here: a runner should be ready soon.
    import hashlib

    hashed = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        hashed.update(f"{name} {value.dtype} {value.shape}".encode())
        hashed.update(value.tobytes())
    return hashed.digest()


def check_size(file: Path, nbytes: int) -> None:
    """Refuse a file with more values than `MAX_SAMPLE_BYTES`.

    Raises:
        SampleError: it has.
    """
    if nbytes > MAX_SAMPLE_BYTES:
        raise SampleError(f"Sample {file} holds {nbytes} bytes of values; the limit is {MAX_SAMPLE_BYTES}.")


def stored_arrays(file: Path) -> StoredArray | dict[str, StoredArray]:
    """Return the array of an .npy file, or the arrays of an .npz file by name, without reading their values.

    Raises:
        SampleError: the file can't be read or is damaged, or an array in it contains Python objects.
    """
    with _reading(file):
        with file.open("rb") as stream:
            zipped = stream.read(4) in (b"PK\3\4", b"PK\5\6")
            if not zipped:
                stream.seek(0)
                return _header(file, "", stream, file.stat().st_size)
        found: dict[str, StoredArray] = {}
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name == entry.filename or name in found:
                    raise ValueError(f"{entry.filename!r} in it is there twice, or isn't an array")
                with archive.open(entry) as stream:
                    found[name] = _header(file, entry.filename, stream, entry.file_size)
        return found


def load_arrays(file: Path) -> Array | dict[str, Array]:
    """Return the array of an .npy file, or the arrays of an .npz file by name. Pickled objects are refused.

    Raises:
        SampleError: the file can't be read, is damaged, or is too large.
    """
    stored = stored_arrays(file)
    if isinstance(stored, StoredArray):
        return stored.load()
    check_size(file, sum(array.nbytes for array in stored.values()))
    return {name: array.load() for name, array in stored.items()}


_CHUNK_BYTES = 16 * 1024**2

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Header readers by version of the format. Version 3 only adds field names that aren't ASCII, which these lack."""


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SampleError(f"Sample {file} can't be read: {error.strerror or error}.") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        # RuntimeError: an archive with a password, or compressed by a method that Python doesn't know.
        raise SampleError(f"Sample {file} can't be read: {error}.") from error


@contextmanager
def _opened(file: Path, entry: str) -> Iterator[io.BufferedIOBase]:
    if not entry:
        with file.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(file) as archive, archive.open(entry) as stream:
        yield cast("io.BufferedIOBase", stream)


def _header(file: Path, entry: str, stream: IO[bytes], size: int) -> StoredArray:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ValueError(f"its format has the version {version}, which isn't one of plain arrays")
    try:
        shape, column_major, dtype = _HEADER_READERS[version](stream)
    except (SyntaxError, tokenize.TokenError) as error:  # NumPy reads headers as Python's own text
        raise ValueError("its header is damaged") from error
    start = stream.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which aren't loaded; save arrays of numbers")
    array = StoredArray(file, entry, shape, dtype, column_major, start)
    if any(d < 0 for d in shape) or array.nbytes > size - start:
        raise ValueError(f"it says that it holds {dtype} of the shape {shape}, which is more than is in it")
    return array
