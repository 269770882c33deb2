"""The metadata of a library: written when it is built, and read without running it."""

from __future__ import annotations

import bz2
import io
import sys
import zlib
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

from pipeline.errors import ArtifactError
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import TensorSpec
from pipeline.ir.types import MAX_TENSOR_BYTES, QuantizationParameters, TensorType
from pipeline.library.elf import ElfError, find_section
from pipeline.schema import Record

METADATA_SECTION = ".pipeline.metadata"
"""The ELF section of a library that contains its metadata, as JSON."""

OPERATORS_SECTION = ".pipeline.operators"
"""The ELF section that contains the metadata's `operators`, as JSON, compressed with bzip2: for each call of a kernel
it would be some 250 bytes. Unlike deflate, bzip2 has one implementation in use, so that equal records give equal bytes.
In libraries without it, built by an older pipeline, they are in `METADATA_SECTION`."""

CHECKSUM_SECTION = ".pipeline.checksum"
"""The ELF section of a library that contains the CRC-32 of all other bytes of the file, little-endian.

A CRC detects every change of a few bits, and is quick, which matters as every process that loads a library computes it.
It isn't a signature: someone who changes a library on purpose can write a matching checksum.
"""

SCHEMA_VERSION = 4
"""The newest version of the metadata. It is raised by a change that older readers would misunderstand. A library has
the oldest version whose readers understand its metadata."""

_FIRST_WITH_CHECKSUM = 3

MAX_METADATA_BYTES = 16 * 1024**2

_CHECKSUM_BYTES = 4
_READ_BYTES = 256 * 1024

_DTYPES = {"bool", "float16", "float32", "float64"} | {f"{t}{n}" for t in ("int", "uint") for n in (8, 16, 32, 64)}
"""All dtypes that tensors of programs may have."""

_MAX_RANK = 64
"""NumPy's own limit."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class TargetSummary(Record, frozen=True, kw_only=True):
    """The target that the library was built for; see `targets.Target`."""

    name: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    required_features: tuple[str, ...]
    instruction_set: str


class FloatOperator(Record, frozen=True, kw_only=True):
    """An operator of an int8 library that is computed in float32, and why."""

    name: str
    operator: str
    reason: str


class QuantizationSummary(Record, frozen=True, kw_only=True):
    """What quantization did to a model: the part of the metadata that float libraries don't have.

    Attributes:
        quantization: scale and zero point of every 8-bit tensor by name; the largest scale, if each channel has one.
        table_sha256: SHA-256 of the calibration table.
        int8_operators: how many operators are computed in int8.
        float_operators: the operators that aren't.
    """

    quantization: dict[str, QuantizationParameters]
    table_sha256: str
    int8_operators: _Count
    float_operators: tuple[FloatOperator, ...]


class OperatorRecord(Record, frozen=True, kw_only=True):
    """One kernel call of a library.

    Attributes:
        name: name of the tensor that it computes. A tensor that the compiler made has the name of one of the model with
            a suffix for what was done to it.
        operator: what it computes, such as `qnn.conv2d`; for TVM's own operators, the kernel's name.
        kernel: name of the kernel.
        multiply_adds: how many multiply-adds convolutions and matrix products have by their definition; else 0.
        inputs: types of the tensors that it reads, without constants.
        constant_bytes: bytes of packed weights and other constants that it reads.
        output: type of the tensor that it computes.
    """

    name: str
    operator: str
    kernel: str
    multiply_adds: _Count
    inputs: tuple[TensorType, ...]
    constant_bytes: _Count
    output: TensorType

    def __post_init__(self) -> None:
        """Refuse impossible tensor types; while metadata is read, msgspec reports this as a validation error."""
        for tensor in (*self.inputs, self.output):
            _check_type(f"what operator {self.name!r} reads and writes", tensor)

    @property
    def moved_bytes(self) -> int:
        """How many bytes it reads and writes, each counted once."""
        return self.constant_bytes + sum(t.nbytes for t in (*self.inputs, self.output))

    @property
    def in_float(self) -> bool:
        """Whether all tensors that it reads and writes are floats."""
        return all(t.dtype.startswith("float") for t in (*self.inputs, self.output))


class ArtifactMetadata(Record, frozen=True, kw_only=True):
    """Everything a library says about itself.

    Attributes:
        schema_version: version of the metadata.
        model: the model's name.
        kind: "int8" for a quantized program, else "float32".
        inputs: name, shape and dtype of each input, in order; names are ONNX's.
        outputs: name, shape and dtype of each output, in order; names are ONNX's.
        quantization: scale and zero point of every 8-bit tensor by name, the largest scale if each channel has one;
            empty in a float library.
        target: what it was built for.
        versions: versions of the packages that built it.
        model_sha256: SHA-256 of the ONNX file.
        table_sha256: SHA-256 of the calibration table; None in a float library.
        int8_operators: how many operators are computed in int8.
        float_operators: the operators that aren't; empty in a float library.
        operators: every kernel call, in order; empty in a library of schema version 1. See `OPERATORS_SECTION`.
        preprocessing: how pictures become the input, from schema version 4 on; unset if it wasn't built with pictures.
    """

    schema_version: Literal[1, 2, 3, 4] = 3
    model: str
    kind: Literal["int8", "float32"]
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    quantization: dict[str, QuantizationParameters] = msgspec.field(default_factory=dict)
    target: TargetSummary
    versions: dict[str, str]
    model_sha256: str
    table_sha256: str | None = None
    int8_operators: _Count = 0
    float_operators: tuple[FloatOperator, ...] = ()
    operators: tuple[OperatorRecord, ...] = ()
    preprocessing: ImagePreprocessing | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        """Refuse impossible inputs and outputs; while metadata is read, msgspec reports this as a validation error."""
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = {spec.name for spec in specs}
            if len(names) != len(specs):
                raise ValueError(f"two {kind}s have the same name")
            for spec in specs:
                _check_type(f"{kind} {spec.name!r}", TensorType(spec.shape, spec.dtype))


def _check_type(what: str, tensor: TensorType) -> None:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{what}: the dtype {tensor.dtype!r} is none of {', '.join(sorted(_DTYPES))}")
    if len(tensor.shape) > _MAX_RANK:
        raise ValueError(f"{what}: it has {len(tensor.shape)} dimensions, the limit is {_MAX_RANK}")
    if any(size < 0 for size in tensor.shape):
        raise ValueError(f"{what}: a size in the shape {list(tensor.shape)} is negative")
    if tensor.nbytes > MAX_TENSOR_BYTES:
        raise ValueError(f"{what}: shape {list(tensor.shape)} and {tensor.dtype} exceed {MAX_TENSOR_BYTES} bytes")


def read_metadata(path: str | Path) -> ArtifactMetadata:
    """Return the metadata of a library, after comparing the file with its checksum. No code of the library is run.

    The whole file is read for the checksum. Libraries of schema versions 1 and 2 have none; only their metadata is
    checked.

    Raises:
        ArtifactError: the file is missing, isn't a library of this pipeline, is damaged, or was built by a newer
            version of this pipeline.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            stored = _read_section(path, file, METADATA_SECTION)
            compressed = _read_section(path, file, OPERATORS_SECTION)
            intact = _is_intact(file)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}.") from error
    except ElfError as error:
        raise ArtifactError(f"{path} isn't a shared library, or is damaged: {error}.") from error
    if stored is None:
        raise ArtifactError(f"{path} wasn't built by this pipeline: it has no section {METADATA_SECTION}.")
    if intact is False:
        raise ArtifactError(
            f"{path} is damaged: its content isn't what it was when it was built. Copy it again, or build it again."
        )
    try:
        written = msgspec.json.decode(stored, type=_Version).schema_version
        if written > SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} was built by a newer pipeline: its metadata has version {written}, this pipeline reads "
                f"version {SCHEMA_VERSION}. Update the package, or build the library again."
            )
        if intact is None and written >= _FIRST_WITH_CHECKSUM:
            raise ArtifactError(f"{path} is damaged: it has lost its section {CHECKSUM_SECTION}. Build it again.")
        metadata = msgspec.json.decode(stored, type=ArtifactMetadata)
        if compressed is None:
            return metadata
        operators = msgspec.json.decode(_decompressed(compressed), type=tuple[OperatorRecord, ...])
        return msgspec.structs.replace(metadata, operators=operators)
    # Text that isn't UTF-8 raises a UnicodeDecodeError, JSON that is nested too deeply a RecursionError; what bzip2
    # hasn't written, an OSError.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ArtifactError(f"{path} has damaged metadata. Build it again. {error}.") from error


def encode_metadata(metadata: ArtifactMetadata) -> tuple[bytes, bytes]:
    """Return what a library's sections `METADATA_SECTION` and `OPERATORS_SECTION` contain."""
    rest = msgspec.structs.replace(metadata, operators=())
    return msgspec.json.encode(rest), bz2.compress(msgspec.json.encode(metadata.operators))


def with_checksum(library: bytes) -> bytes:
    """Return a linked library with its checksum filled in.

    Args:
        library: an ELF file with a section `CHECKSUM_SECTION` of four bytes, whose content doesn't matter.

    Raises:
        ArtifactError: the bytes aren't an ELF file, or it doesn't have the section.
    """
    try:
        section = find_section(io.BytesIO(library), CHECKSUM_SECTION)
    except ElfError as error:
        raise ArtifactError(f"The library isn't an ELF file: {error}.") from error
    if section is None:
        raise ArtifactError(f"The library has no section {CHECKSUM_SECTION}.")
    before, after = library[: section.offset], library[section.offset + _CHECKSUM_BYTES :]
    checksum = zlib.crc32(after, zlib.crc32(before))
    return b"".join((before, checksum.to_bytes(_CHECKSUM_BYTES, "little"), after))


def _read_section(path: Path, file: BinaryIO, name: str) -> bytes | None:
    section = find_section(file, name)
    if section is None:
        return None
    if section.size > MAX_METADATA_BYTES:
        raise ArtifactError(
            f"{path} is damaged: its metadata claims {section.size} bytes; the limit is {MAX_METADATA_BYTES}."
        )
    # The bytes are read as they are stored, even if the section's flags say that it is compressed.
    file.seek(section.offset)
    return file.read(section.size)


def _decompressed(data: bytes) -> bytes:
    """Return what bzip2 has compressed; of more than `MAX_METADATA_BYTES`, only the beginning, which isn't JSON."""
    return bz2.BZ2Decompressor().decompress(data, MAX_METADATA_BYTES)


def _is_intact(file: BinaryIO) -> bool | None:
    """Return whether a library's content matches its checksum; None if it has no checksum."""
    section = find_section(file, CHECKSUM_SECTION)
    if section is None:
        return None
    file.seek(0)
    checksum = _crc32(file, section.offset, 0)
    stored = file.read(_CHECKSUM_BYTES)
    checksum = _crc32(file, sys.maxsize, checksum)
    return section.size == _CHECKSUM_BYTES and stored == checksum.to_bytes(_CHECKSUM_BYTES, "little")


def _crc32(file: BinaryIO, size: int, checksum: int) -> int:
    """Continue a checksum with the next `size` bytes of a file, or with all that are left if there are fewer."""
    while data := file.read(min(size, _READ_BYTES)):
        checksum = zlib.crc32(data, checksum)
        size -= len(data)
    return checksum


class _Version(msgspec.Struct):
    """The only field that all versions of the metadata, newer ones included, are known to have."""

    schema_version: int
