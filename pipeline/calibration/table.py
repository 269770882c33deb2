"""The calibration table: one scale and zero point for each tensor, as a JSON file that can be edited by hand.

`docs/calibration-table.md` describes the fields. `scale` and `zero_point` are what counts for the int8 model; the other
fields say where they come from.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import TableError
from pipeline.files import read_text, write_text

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Calibrated(BaseModel):
    """One tensor's entry: real = scale * (q - zero_point), q in 0..255.

    Attributes:
        threshold: magnitudes above it are clipped.
        scale: float32, above 0.
        zero_point: the code of 0.0.
        signed: whether the tensor can be negative.
        algorithm: what chose the threshold; "manual" for an edited entry.
        minimum: smallest value seen.
        maximum: largest value seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[Finite, Field(ge=0)]
    scale: Annotated[Finite, Field(gt=1e-30, lt=1e30)]
    zero_point: Annotated[int, Field(ge=0, le=255)]
    signed: bool
    algorithm: str
    minimum: Finite
    maximum: Finite


class CalibrationTable(BaseModel):
    """Everything that calibration found out.

    Attributes:
        schema_version: of this format.
        model_sha256: the ONNX file that was calibrated.
        samples: how many samples were run.
        tensors: entries by tensor name, in order of execution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model_sha256: str
    samples: Annotated[int, Field(ge=1)]
    tensors: dict[str, Calibrated]

    def save(self, path: Path) -> None:
        """Write the table as JSON; see `files.write_text`."""
        write_text(path, self.to_json())

    def to_json(self) -> str:
        """Return the table as the text of its file."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read a table.

        Raises:
            TableError: it can't be read, isn't JSON, or doesn't fit the schema; the message names the entry.
        """
        try:
            return cls.model_validate_json(read_text(path, "calibration table", TableError))
        except ValidationError as error:
            raise TableError(f"Calibration table {path} doesn't fit its schema:\n{error}") from error


def make_entry(
    threshold: float, minimum: float, maximum: float, *, signed: bool, symmetric: bool, algorithm: str
) -> Calibrated:
    """Return the entry for a tensor: 8-bit codes spread over the part of its range that isn't clipped.

    Symmetric, a signed tensor's codes spread over [-T, T] around 128. Otherwise they spread over what is left of
    [minimum, maximum] after clipping at T, widened to hold 0, which is an exact code either way. A tensor that is
    always zero gets scale 1.

    Args:
        threshold: T.
        minimum: smallest value seen.
        maximum: largest value seen.
        signed: whether the tensor can be negative.
        symmetric: see above.
        algorithm: what chose the threshold.
    """
    if signed and symmetric:
        scale, zero_point = threshold / 127, 128
    else:
        low = max(min(minimum, 0.0), -threshold) if signed else 0.0
        high = min(max(maximum, 0.0), threshold)
        scale = (high - low) / 255
        zero_point = round(-low / scale) if scale > 0 else 0
    scale = float(np.float32(scale))
    # Anything smaller would vanish, or overflow as a reciprocal, in float32.
    if not scale > 1e-30 or not math.isfinite(scale):
        scale = 1.0
    return Calibrated(
        threshold=threshold,
        scale=scale,
        zero_point=min(max(zero_point, 0), 255),
        signed=signed,
        algorithm=algorithm,
        minimum=minimum,
        maximum=maximum,
    )
