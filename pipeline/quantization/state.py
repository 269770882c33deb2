"""What the steps of quantization have found out so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.ir.program import Program
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.statistics import Need, Statistic
from pipeline.quantization.table import Calibrated, CalibrationTable


@dataclass(frozen=True)
class CorrectionOutcome:
    """What became of a correction.

    Attributes:
        name: of the correction.
        kept: whether it was applied; it isn't where the held-back samples say that it makes the error larger.
        before_db: signal to quantization noise of the outputs, on samples that the correction didn't see, without it,
            in decibels; None if it wasn't measured, or there is no noise.
        after_db: with it.
        note: what else is to be said: why it was dropped, what it left out.
    """

    name: str
    kept: bool
    before_db: float | None = None
    after_db: float | None = None
    note: str = ""

    def __str__(self) -> str:
        """Return what became of it, as a sentence without its end."""
        done = "applied" if self.kept else "dropped"
        measured = (
            f", {self.before_db:.1f} -> {self.after_db:.1f} dB on held-back samples"
            if self.before_db is not None and self.after_db is not None
            else ""
        )
        return f"{done}{measured}{f': {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class State:
    """A model on its way from float to int8.

    Attributes:
        program: the float program, as corrections have left it; after realization the int8 one.
        annotation: what becomes int8; once it is realized, what did.
        table: scales and zero points.
        statistics: what else calibration has found out.
        closest: entries that the table might have instead, by name of the tensor: see `calibrate.Calibration`.
        original: the float program that was annotated and calibrated; None before that.
        corrections: what became of those that were wanted, in order.
        sqnr_db: signal to quantization noise of the program's outputs on held-back samples, decibels; None if it wasn't
            measured.
        realized: the float program that realization made integers of; None before.
    """

    program: Program
    annotation: Annotation = field(default_factory=lambda: Annotation(operators=(), tensors=()))
    table: CalibrationTable | None = None
    statistics: Mapping[Need, Statistic] = field(default_factory=dict)
    closest: Mapping[str, Calibrated] = field(default_factory=dict)
    original: Program | None = None
    corrections: tuple[CorrectionOutcome, ...] = ()
    sqnr_db: float | None = None
    realized: Program | None = None

    def calibrated(self) -> CalibrationTable:
        """Return the table.

        Raises:
            TypeError: the step that asks for it comes before calibration.
        """
        if self.table is None:
            raise TypeError("A step that needs the calibration table comes before calibration")
        return self.table

    def parameters_of(self, tensor: str) -> QuantizationParameters:
        """Return scale and zero point of a quantized tensor, which may be those of another that it shares them with."""
        return self.calibrated().tensors[self.annotation.source(tensor)].parameters

    @property
    def uncorrected(self) -> Program:
        """The float program without corrections."""
        return self.program if self.original is None else self.original
