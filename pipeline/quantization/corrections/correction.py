"""What a correction is: a step between calibration and realization that makes the int8 model's error smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.state import State
from pipeline.quantization.statistics import Need


class CannotCorrect(Exception):
    """A correction isn't possible for a model; the message says why."""


class Correction(ABC):
    """A change of the float program, made after calibration from statistics that calibration has collected.

    Class attributes:
        name: of the option that switches it on, and of the correction in reports.
        changes: what it changes in the program, in words, for reports.
        changes_scales: whether it changes scales of activations; then it isn't applied to those of a given table.
    """

    name: ClassVar[str]
    changes: ClassVar[str]
    changes_scales: ClassVar[bool] = False

    @abstractmethod
    def needs(self, program: Program, annotation: Annotation) -> tuple[Need, ...]:
        """Return the statistics that it needs; they are collected while calibration runs."""

    def least_gain_db(self, state: State) -> float:
        """Return by how much outputs of samples that it hasn't seen have to be better with it, in decibels.

        Args:
            state: before it is applied.
        """
        del state
        return 0.0

    @abstractmethod
    def apply(self, state: State) -> State:
        """Return the state with the float program corrected.

        What is corrected is the whole error of the program in `state`, which corrections before this one may have
        changed, towards `state.uncorrected`; so no correction counts twice.

        Raises:
            CannotCorrect: it can't be done for this model.
        """
