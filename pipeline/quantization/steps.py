"""Quantization as an ordered list of steps: annotate, calibrate, corrections, realize.

Each step takes a `State`, which holds the results of the steps before it, and returns a new one; nothing is changed in
place.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.config.options import AnnotateOptions, CalibrateOptions, QuantizeOptions
from pipeline.errors import OptionError, TableError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.calibrate import calibrate_with_statistics, check_algorithm
from pipeline.quantization.corrections import Correction, wanted_corrections
from pipeline.quantization.realize import realize
from pipeline.quantization.selection import with_names
from pipeline.quantization.statistics import Need, Statistic
from pipeline.quantization.table import CalibrationTable
from pipeline.samples import Samples

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """A model on its way from float to int8.

    Attributes:
        program: the float program, as corrections have left it; after realization the int8 one.
        annotation: what becomes int8; once it is realized, what did.
        table: scales and zero points.
        statistics: what calibration has collected for corrections.
        corrections: those that have been applied to the program, in order.
        realized: the float program that realization made integers of; None before.
    """

    program: Program
    annotation: Annotation = field(default_factory=lambda: Annotation(operators=(), tensors=()))
    table: CalibrationTable | None = None
    statistics: Mapping[Need, Statistic] = field(default_factory=dict)
    corrections: tuple[Correction, ...] = ()
    realized: Program | None = None

    def calibrated(self) -> CalibrationTable:
        """Return the table.

        Raises:
            TypeError: the step that asks for it comes before calibration.
        """
        if self.table is None:
            raise TypeError("A step that needs the calibration table comes before calibration")
        return self.table


class Step(Protocol):
    """One step."""

    def __call__(self, state: State) -> State:
        """Return the state after this step."""


@dataclass(frozen=True)
class Annotate:
    """Decides what becomes int8, or takes decisions as they are given."""

    options: AnnotateOptions
    given: Annotation | None = None

    def __call__(self, state: State) -> State:
        """See `annotate`."""
        if self.given is not None:
            return dataclasses.replace(state, annotation=with_names(self.given, state.program))
        return dataclasses.replace(state, annotation=annotate(state.program, self.options))


@dataclass(frozen=True)
class Calibrate:
    """Chooses scales, and collects what corrections need, in one pass over the samples."""

    samples: Samples
    options: CalibrateOptions
    corrections: Sequence[Correction] = ()
    progress: Callable[[int], None] | None = None

    def __call__(self, state: State) -> State:
        """See `calibrate`."""
        needs = [need for c in self.corrections for need in c.needs(state.program, state.annotation)]
        found = calibrate_with_statistics(
            state.program, state.annotation, self.samples, self.options, self.progress, needs
        )
        return dataclasses.replace(state, table=found.table, statistics=found.statistics)


@dataclass(frozen=True)
class TakeTable:
    """Takes scales as they are given; nothing is run."""

    given: CalibrationTable

    def __call__(self, state: State) -> State:
        """Return the state with the table.

        Raises:
            TableError: it was made for another model.
        """
        wanted, own = state.program.source_sha256, self.given.model_sha256
        if own != wanted:
            raise TableError(
                f"The calibration table was made for another model: its model_sha256 is {own[:12]}..., this one's "
                f"{wanted[:12]}.... Calibrate again, or write this model's into the table."
            )
        return dataclasses.replace(state, table=self.given)


@dataclass(frozen=True)
class Correct:
    """Applies one correction."""

    correction: Correction

    def __call__(self, state: State) -> State:
        """See `corrections.Correction`."""
        program = self.correction.apply(state.program, state.annotation, state.calibrated(), state.statistics)
        return dataclasses.replace(state, program=program, corrections=(*state.corrections, self.correction))


class Realize:
    """Writes the program with integers."""

    def __call__(self, state: State) -> State:
        """See `realize`."""
        program, annotation = realize(state.program, state.annotation, state.calibrated())
        return dataclasses.replace(state, program=program, annotation=annotation, realized=state.program)


def check_options(options: QuantizeOptions, table_given: bool) -> None:
    """Refuse options that no quantization could follow, before anything is run.

    Args:
        options: what the user wants.
        table_given: whether scales come from a calibration table, so that calibration doesn't run.

    Raises:
        OptionError: the calibration algorithm, or an option of it, is unknown or wrong; or a correction is wanted that
            needs statistics of samples, and a given table has none.
    """
    check_algorithm(options.calibrate)
    corrections = wanted_corrections(options.corrections)
    if table_given and corrections:
        names = " and ".join(f"{c.name} (--{c.name.replace('_', '-')})" for c in corrections)
        raise OptionError(
            f"{names}: corrections need statistics of the samples, which only calibration collects. "
            "Leave the calibration table (--calibration) out, or the corrections."
        )


def steps(
    samples: Samples | None,
    options: QuantizeOptions,
    annotation: Annotation | None = None,
    table: CalibrationTable | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Step, ...]:
    """Return the steps that make an int8 program of a float one, in order.

    Args:
        samples: what calibration runs on.
        options: what the user wants.
        annotation: decisions to take as they are.
        table: scales to take as they are.
        progress: called after each batch of calibration with the number of batches so far.

    Raises:
        OptionError: see `check_options`.
    """
    check_options(options, table_given=table is not None)
    corrections = wanted_corrections(options.corrections)
    if table is None:
        calibration: Step = Calibrate(samples if samples is not None else (), options.calibrate, corrections, progress)
    else:
        calibration = TakeTable(table)
    return (Annotate(options.annotate, annotation), calibration, *map(Correct, corrections), Realize())


def run(program: Program, chosen: Sequence[Step]) -> State:
    """Return the state of a float program after all steps."""
    state = State(program)
    for step in chosen:
        _log.debug("step %s", step)
        state = step(state)
    return state
