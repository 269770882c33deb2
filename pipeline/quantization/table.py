"""The calibration table: one scale and zero point for each tensor, as a JSON file that can be edited by hand.

`docs/calibration-table.md` describes the fields. `scale` and `zero_point` are what counts for the int8 model; the other
fields say where they come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from pipeline.errors import TableError
from pipeline.files import write_text
from pipeline.ir.types import QuantizationParameters, QuantizedDtype
from pipeline.quantization.spec import SCALES_ABOVE, SCALES_BELOW
from pipeline.schema import Record, read_json, to_json

Scale = Annotated[float, Meta(gt=SCALES_ABOVE, lt=SCALES_BELOW)]


class Calibrated(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor's entry: real = scale * (q - zero_point), q in 0..255, or of 16 bits.

    Attributes:
        threshold: magnitudes above it are clipped.
        scale: float32, above 0.
        zero_point: the quantized value of 0.0.
        signed: whether the tensor can be negative.
        algorithm: what chose the threshold; "manual" for an edited entry.
        minimum: smallest value seen.
        maximum: largest value seen.
        dtype: of q; a file leaves it out where it is uint8.
        channel_scales: a scale for each channel, the last axis, in place of `scale`, which is the largest of them. A
            file leaves it out where one holds for all.
    """

    threshold: Annotated[float, Meta(ge=0)]
    scale: Scale
    zero_point: Annotated[int, Meta(ge=0, le=255)]
    signed: bool
    algorithm: str
    minimum: float
    maximum: float
    dtype: QuantizedDtype = "uint8"
    channel_scales: tuple[Scale, ...] = ()

    def __post_init__(self) -> None:
        """Check zero point and scales; while a file is read, msgspec reports this as a validation error."""
        if self.dtype == "int16" and self.zero_point:
            raise ValueError("the zero point of 16 bits is 0")
        if self.dtype == "int16" and self.channel_scales:
            raise ValueError("16 bits have one scale, no channel_scales")
        if self.channel_scales and self.scale != max(self.channel_scales):
            raise ValueError("scale isn't the largest of channel_scales")

    @property
    def parameters(self) -> QuantizationParameters:
        """Scale and zero point: what counts for the int8 model."""
        return QuantizationParameters(self.scale, self.zero_point, self.dtype, self.channel_scales)


class CalibrationTable(Record, frozen=True, kw_only=True):
    """Everything that calibration found out.

    Attributes:
        schema_version: of this format.
        model_sha256: the ONNX file that was calibrated.
        samples: how many samples were run.
        tensors: entries by tensor name, in order of execution.
        equalization: exponents by tensor name, one for each channel: the scales are those of a program in which the
            channel is divided by this power of two; see `quantization.equalization`. Left out if there are none.
        wide_channels: numbers of channels by tensor name: the scales are those of a program in which these have tensors
            of their own; see `quantization.wide_channels`. Left out if there are none.
    """

    schema_version: Literal[1] = 1
    model_sha256: str
    samples: Annotated[int, Meta(ge=1)]
    tensors: dict[str, Calibrated]
    equalization: dict[str, tuple[int, ...]] | UnsetType = UNSET
    wide_channels: dict[str, tuple[int, ...]] | UnsetType = UNSET

    def save(self, path: str | Path) -> None:
        """Write the table as JSON; see `files.write_text`."""
        write_text(Path(path), self.to_json())

    def to_json(self) -> str:
        """Return the table as the text of its file."""
        return to_json(self)

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """Read a table.

        Raises:
            TableError: it can't be read, isn't JSON, or doesn't fit the schema; the message names the entry.
        """
        return read_json(Path(path), cls, "calibration table", TableError)
