"""Quantization as an ordered list of steps: annotate, calibrate, corrections, realize.

Each step takes a `State`, which holds the results of the steps before it, and returns a new one; nothing is changed in
place.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.config.options import AnnotateOptions, CalibrateOptions, QuantizeOptions
from pipeline.errors import OptionError, TableError
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.calibrate import calibrate_with_statistics, check_algorithm
from pipeline.quantization.collect import collect_statistics
from pipeline.quantization.corrections import CannotCorrect, Correction, demanded_corrections, wanted_corrections
from pipeline.quantization.corrections.kept import finite, held_back_sqnr, kept_needs
from pipeline.quantization.realize import realize
from pipeline.quantization.selection import with_names
from pipeline.quantization.state import CorrectionOutcome, State
from pipeline.quantization.statistics import Need
from pipeline.quantization.table import CalibrationTable
from pipeline.samples import Samples

_log = logging.getLogger(__name__)


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
        needs = _needs(state, self.corrections)
        found = calibrate_with_statistics(
            state.program, state.annotation, self.samples, self.options, self.progress, needs
        )
        return dataclasses.replace(state, table=found.table, statistics=found.statistics, original=state.program)


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
        return dataclasses.replace(state, table=self.given, original=state.program)


@dataclass(frozen=True)
class Collect:
    """Collects what corrections need, in one pass over the samples, where the scales are known already."""

    samples: Samples
    options: CalibrateOptions
    corrections: Sequence[Correction]
    progress: Callable[[int], None] | None = None

    def __call__(self, state: State) -> State:
        """See `collect.collect_statistics`."""
        needs = _needs(state, self.corrections)
        statistics = collect_statistics(state.program, needs, self.samples, self.options, self.progress)
        return dataclasses.replace(state, statistics=statistics)


def _needs(state: State, corrections: Sequence[Correction]) -> Iterable[Need]:
    """Return what corrections need, and the samples that they are checked on."""
    own = [need for c in corrections for need in c.needs(state.program, state.annotation)]
    return dict.fromkeys([*(kept_needs(state.program) if corrections else ()), *own])


@dataclass(frozen=True)
class Correct:
    """Applies one correction, if samples that it hasn't seen say that it is one."""

    correction: Correction

    def __call__(self, state: State) -> State:
        """See `corrections.Correction`; the state says what became of it."""
        name, before, corrected, after = self.correction.name, state.sqnr_db, state, None
        try:
            before = _measured(state) if before is None else before
            corrected = self.correction.apply(state)
            after = _measured(corrected)
        except CannotCorrect as reason:
            outcome = CorrectionOutcome(name, kept=False, note=str(reason))
        else:
            outcome = CorrectionOutcome(name, after > before, finite(before), finite(after))
        _log.info("%s: %s", name, outcome)
        kept, sqnr = (corrected, after) if outcome.kept else (state, before)
        return dataclasses.replace(kept, sqnr_db=sqnr, corrections=(*state.corrections, outcome))


def _measured(state: State) -> float:
    """Return the signal to quantization noise on held-back samples that the state's program would have in int8."""
    return held_back_sqnr(state, realize(state.program, state.annotation, state.calibrated(), warn=False)[0])


class Realize:
    """Writes the program with integers."""

    def __call__(self, state: State) -> State:
        """See `realize`."""
        program, annotation = realize(state.program, state.annotation, state.calibrated())
        return dataclasses.replace(state, program=program, annotation=annotation, realized=state.program)


def check_options(options: QuantizeOptions, table_given: bool, samples_given: bool) -> None:
    """Refuse options that no quantization could follow, before anything is run.

    Args:
        options: what the user wants.
        table_given: whether scales come from a calibration table, so that calibration doesn't run.
        samples_given: whether there are samples.

    Raises:
        OptionError: the calibration algorithm, or an option of it, is unknown or wrong; or a correction is switched on
            that needs statistics of samples, and there are none.
    """
    check_algorithm(options.calibrate)
    corrections = demanded_corrections(options.corrections)
    if table_given and not samples_given and corrections:
        names = " and ".join(f"{c.name} (--{c.name.replace('_', '-')})" for c in corrections)
        raise OptionError(
            f"{names}: corrections need statistics of samples, which a calibration table doesn't hold. "
            "Give samples (--samples), too, or leave the corrections out."
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
        progress: called after each batch of samples with the number of batches so far.

    Raises:
        OptionError: see `check_options`.
    """
    check_options(options, table_given=table is not None, samples_given=samples is not None)
    corrections = wanted_corrections(options.corrections)
    if table is None:
        given = samples if samples is not None else ()
        ranges: tuple[Step, ...] = (Calibrate(given, options.calibrate, corrections, progress),)
    elif samples is not None and corrections:
        ranges = (TakeTable(table), Collect(samples, options.calibrate, corrections, progress))
    else:
        if corrections:
            _log.warning(
                "A calibration table holds scales only: without samples, biases aren't corrected. Give samples, too, "
                "or --effort none."
            )
        ranges, corrections = (TakeTable(table),), ()
    return (Annotate(options.annotate, annotation), *ranges, *map(Correct, corrections), Realize())


def run(program: Program, chosen: Sequence[Step]) -> State:
    """Return the state of a float program after all steps."""
    state = State(program)
    for step in chosen:
        _log.debug("step %s", step)
        state = step(state)
    return state
