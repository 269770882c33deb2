"""What a library says about itself: written when it is built, readable without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pipeline.dialect.types import TensorType
from pipeline.elf import ElfError, find_section
from pipeline.errors import ArtifactError
from pipeline.program import TensorSpec

METADATA_SECTION = ".pipeline.metadata"
"""The ELF section of a library that holds its metadata, JSON."""

SCHEMA_VERSION = 2
"""Of the metadata's fields: a change that older readers would misunderstand raises it."""

MAX_METADATA_BYTES = 16 * 1024**2


class Quantization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scale and zero point of an 8-bit tensor."""

    scale: float
    zero_point: int


class TargetSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the library was built for; see `targets.Target`."""

    name: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    required_features: tuple[str, ...]
    instruction_set: str


class FloatOperator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator of an int8 library that is computed in float32, and why."""

    name: str
    operator: str
    reason: str


class QuantizationSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What quantization did to a model; the part of the metadata that a float library lacks.

    Attributes:
        quantization: scale and zero point of every 8-bit tensor by name.
        table_sha256: the calibration table.
        int8_operators: how many operators are computed in int8.
        float_operators: those that aren't.
    """

    quantization: dict[str, Quantization]
    table_sha256: str
    int8_operators: int
    float_operators: tuple[FloatOperator, ...]


class OperatorRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kernel call of a library.

    Attributes:
        name: the tensor that it computes. Those that the compiler made have the name of a tensor of the model, with
            what was done to it.
        operator: what is computed, such as `qnn.conv2d`; for TVM's own operators, the kernel's name.
        kernel: the function that computes it.
        multiply_adds: of convolutions and matrix products of the dialect, by their definition; else 0.
        inputs: types of the tensors that it reads, without constants.
        constant_bytes: what it reads of weights and other constants, as they are packed.
        output: type of the tensor.
    """

    name: str
    operator: str
    kernel: str
    multiply_adds: int
    inputs: tuple[TensorType, ...]
    constant_bytes: int
    output: TensorType

    @property
    def moved_bytes(self) -> int:
        """Bytes that it reads and writes if each is read and written once."""
        return self.constant_bytes + sum(t.nbytes for t in (*self.inputs, self.output))

    @property
    def in_float(self) -> bool:
        """Whether it neither reads nor writes an integer tensor."""
        return all(t.dtype.startswith("float") for t in (*self.inputs, self.output))


class ArtifactMetadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a library says about itself.

    Attributes:
        schema_version: of this format.
        model: the model's name.
        kind: what the library computes in.
        inputs: in order, with ONNX names.
        outputs: in order, with ONNX names.
        quantization: scale and zero point of every 8-bit tensor by name; empty in a float library.
        target: what it was built for.
        versions: of the packages that made it.
        model_sha256: the ONNX file.
        table_sha256: the calibration table; None in a float library.
        int8_operators: how many operators are computed in int8.
        float_operators: those that aren't; in a float library, empty.
        operators: every kernel call, in order; empty in a library of schema version 1.
    """

    schema_version: Literal[1, 2] = 2
    model: str
    kind: Literal["int8", "float32"]
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    quantization: dict[str, Quantization] = {}
    target: TargetSummary
    versions: dict[str, str]
    model_sha256: str
    table_sha256: str | None = None
    int8_operators: int = 0
    float_operators: tuple[FloatOperator, ...] = ()
    operators: tuple[OperatorRecord, ...] = ()


def read_metadata(path: Path) -> ArtifactMetadata:
    """Return what a library says about itself; nothing in it is run.

    Raises:
        ArtifactError: the file is missing, isn't a library of this pipeline, is damaged, or was built by a newer
            version of this pipeline.
    """
    try:
        data = _read_section(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}.") from error
    except ElfError as error:
        raise ArtifactError(f"{path} isn't a shared library, or is damaged: {error}.") from error
    try:
        written = msgspec.json.decode(data, type=_Version).schema_version
        if written > SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} was built by a newer pipeline: its metadata has version {written}, this pipeline reads "
                f"version {SCHEMA_VERSION}. Update the package, or build the library again."
            )
        return msgspec.json.decode(data, type=ArtifactMetadata)
    # What isn't UTF-8 is a ValueError of Python's.
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} has damaged metadata. Build it again. {error}.") from error


def _read_section(path: Path) -> bytes:
    with path.open("rb") as file:
        section = find_section(file, METADATA_SECTION)
        if section is None:
            raise ArtifactError(f"{path} wasn't built by this pipeline: it has no section {METADATA_SECTION}.")
        if section.size > MAX_METADATA_BYTES:
            raise ArtifactError(
                f"{path} is damaged: its metadata claims {section.size} bytes; the limit is {MAX_METADATA_BYTES}."
            )
        # As stored, whatever the section says of compression.
        file.seek(section.offset)
        return file.read(section.size)


class _Version(msgspec.Struct):
    """The one field that every version of the metadata has."""

    schema_version: int
