"""What a correction is: a step between calibration and realization that makes the int8 model's error smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.statistics import Need, Statistic
from pipeline.quantization.table import CalibrationTable


class Correction(ABC):
    """A change of the float program, made after calibration from statistics that calibration has collected.

    Class attributes:
        name: of the option that switches it on, and of the correction in reports.
        changes: what it changes in the program, in words, for reports.
    """

    name: ClassVar[str]
    changes: ClassVar[str]

    @abstractmethod
    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the statistics that it needs; they are collected while calibration runs."""

    @abstractmethod
    def apply(
        self,
        program: Program,
        annotation: Annotation,
        table: CalibrationTable,
        statistics: Mapping[Need, Statistic],
    ) -> Program:
        """Return the float program corrected; the one that was given isn't changed.

        Args:
            program: the float program.
            annotation: what becomes int8.
            table: scale and zero point of its tensors.
            statistics: all that `needs` has asked for.
        """
