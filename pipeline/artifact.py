"""What a library says about itself: written when it is built, readable without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ArtifactError
from pipeline.program import TensorSpec

METADATA_SECTION = ".pipeline.metadata"
"""The ELF section of a library that holds its metadata, JSON."""

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
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


def read_metadata(path: Path) -> ArtifactMetadata:
    """Return what a library says about itself; nothing in it is run.

    Raises:
        ArtifactError: the file is missing, isn't a library of this pipeline, or is damaged.
    """
    try:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(METADATA_SECTION)
            if section is None:
                raise ArtifactError(f"{path} wasn't built by this pipeline: it has no section {METADATA_SECTION}.")
            if section["sh_size"] > min(MAX_METADATA_BYTES, path.stat().st_size):
                raise ArtifactError(f"{path} is damaged: its metadata claims {section['sh_size']} bytes.")
            data = section.data()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}.") from error
    # pyelftools raises whatever its parsers meet in a damaged file.
    except (ELFError, ValueError, KeyError, IndexError, AttributeError, UnicodeDecodeError, OverflowError) as error:
        raise ArtifactError(f"{path} isn't a shared library, or is damaged.") from error
    try:
        return ArtifactMetadata.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactError(f"{path} was built by another version of this pipeline, or is damaged:\n{error}") from error
