"""What a library says about itself: written when it is built, readable without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.dialect.types import TensorType
from pipeline.errors import ArtifactError
from pipeline.program import TensorSpec

METADATA_SECTION = ".pipeline.metadata"
"""The ELF section of a library that holds its metadata, JSON."""

SCHEMA_VERSION = 2
"""Of the metadata's fields: a change that older readers would misunderstand raises it."""

MAX_METADATA_BYTES = 16 * 1024**2


class Quantization(BaseModel):
    """Scale and zero point of an 8-bit tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float
    zero_point: int


class TargetSummary(BaseModel):
    """What the library was built for; see `targets.Target`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    required_features: tuple[str, ...]
    instruction_set: str


class FloatOperator(BaseModel):
    """An operator of an int8 library that is computed in float32, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    operator: str
    reason: str


class QuantizationSummary(BaseModel):
    """What quantization did to a model; the part of the metadata that a float library lacks.

    Attributes:
        quantization: scale and zero point of every 8-bit tensor by name.
        table_sha256: the calibration table.
        int8_operators: how many operators are computed in int8.
        float_operators: those that aren't.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantization: dict[str, Quantization]
    table_sha256: str
    int8_operators: int
    float_operators: tuple[FloatOperator, ...]


class OperatorRecord(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class ArtifactMetadata(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 2
    model: str
    kind: Literal["int8", "float32"]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
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
    # pyelftools raises whatever its parsers meet in a damaged file.
    except (ELFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise ArtifactError(f"{path} isn't a shared library, or is damaged.") from error
    try:
        written = _Version.model_validate_json(data).schema_version
        if written > SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} was built by a newer pipeline: its metadata has version {written}, this pipeline reads "
                f"version {SCHEMA_VERSION}. Update the package, or build the library again."
            )
        return ArtifactMetadata.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactError(f"{path} has damaged metadata. Build it again.\n{error}") from error


def _read_section(path: Path) -> bytes:
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(METADATA_SECTION)
        if section is None:
            raise ArtifactError(f"{path} wasn't built by this pipeline: it has no section {METADATA_SECTION}.")
        size, start = section["sh_size"], section["sh_offset"]
        if size > MAX_METADATA_BYTES or start + size > path.stat().st_size:
            raise ArtifactError(f"{path} is damaged: its metadata claims {size} bytes at {start}.")
        # As stored: a section that says it is compressed would be unpacked without a limit by section.data().
        file.seek(start)
        return file.read(size)


class _Version(BaseModel):
    """The one field that every version of the metadata has."""

    schema_version: int
