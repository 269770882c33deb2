"""The calibration table: one scale and zero point for each tensor, as a JSON file that can be edited by hand.

`docs/calibration-table.md` describes the fields. `scale` and `zero_point` are what counts for the int8 model; the other
fields say where they come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import TableError
from pipeline.files import read_text, write_text
from pipeline.ir.types import QuantizationParameters

Finite = Annotated[float, Field(allow_inf_nan=False)]

_SCALES_ABOVE, _SCALES_BELOW = 1e-30, 1e30
"""A scale beyond would vanish, or overflow as a reciprocal, in float32."""


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
    scale: Annotated[Finite, Field(gt=_SCALES_ABOVE, lt=_SCALES_BELOW)]
    zero_point: Annotated[int, Field(ge=0, le=255)]
    signed: bool
    algorithm: str
    minimum: Finite
    maximum: Finite

    @property
    def parameters(self) -> QuantizationParameters:
        """Scale and zero point: what counts for the int8 model."""
        return QuantizationParameters(self.scale, self.zero_point)


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
    name: str, threshold: float, minimum: float, maximum: float, *, signed: bool, symmetric: bool, algorithm: str
) -> Calibrated:
    """Return the entry for a tensor: 8-bit codes spread over the part of its range that isn't clipped.

    Symmetric, a signed tensor's codes spread over [-T, T] around 128. Otherwise they spread over what is left of
    [minimum, maximum] after clipping at T, widened to hold 0, which is an exact code either way. A tensor of which
    nothing but zero is left gets scale 1; one that is nearly zero, the smallest scale there is.

    Args:
        name: the tensor's.
        threshold: T.
        minimum: smallest value seen; above `maximum` if the tensor has no elements.
        maximum: largest value seen.
        signed: whether the tensor can be negative.
        symmetric: see above.
        algorithm: what chose the threshold.

    Raises:
        TableError: the values are so large that the scale would be out of range.
    """
    if minimum > maximum:
        minimum = maximum = 0.0
    low = max(min(minimum, 0.0), -threshold) if signed else 0.0
    high = min(max(maximum, 0.0), threshold)
    if signed and symmetric:
        scale, zero_point = _in_range(name, threshold / 127), 128
    else:
        scale = _in_range(name, (high - low) / 255)
        zero_point = min(max(round(-low / scale), 0), 255)
    return Calibrated(
        threshold=threshold,
        scale=float(np.float32(scale)),
        zero_point=zero_point,
        signed=signed,
        algorithm=algorithm,
        minimum=minimum,
        maximum=maximum,
    )


def _in_range(name: str, scale: float) -> float:
    """Return a scale in the range of a table's scales: 1 for 0, as any does for a tensor that is zero."""
    if scale == 0:
        return 1.0
    if not scale < _SCALES_BELOW:
        raise TableError(
            f"Tensor {name!r} has values so large that one of 255 steps would be {scale:.3g}; scales are below "
            f"{_SCALES_BELOW:g}. Check the samples and the model, or leave the tensor in float: --skip {name}."
        )
    return max(scale, _SMALLEST_SCALE)


_SMALLEST_SCALE = float(np.nextafter(np.float32(_SCALES_ABOVE), np.float32(1)))
