"""Quantization as an ordered list of steps: annotate, calibrate, corrections, realize.

Each step takes a `State`, which holds the results of the steps before it, and returns a new one; nothing is changed in
place.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec
from msgspec import UNSET

from pipeline.compiler.execute import prepare_library_executors, release_activations
from pipeline.config.options import AnnotateOptions, CalibrateOptions, QuantizeOptions
from pipeline.errors import OptionError, TableError
from pipeline.ir.program import Program
from pipeline.quantization import channel_scales, equalization, wide_channels
from pipeline.quantization.annotate import annotate
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.calibrate import calibrate_with_statistics, check_algorithm
from pipeline.quantization.corrections import (
    CannotCorrect,
    Correction,
    demanded_corrections,
    wanted_corrections,
    wants_equalization,
)
from pipeline.quantization.corrections.kept import finite, held_back_sqnr, kept_needs
from pipeline.quantization.realize import realize
from pipeline.quantization.selection import with_names
from pipeline.quantization.sharded import collect_with
from pipeline.quantization.state import CorrectionOutcome, State
from pipeline.quantization.statistics import Need
from pipeline.quantization.table import CalibrationTable
from pipeline.samples import Samples
from pipeline.scale_out import Engine, ThisProcess

EQUALIZATION_BATCHES = 32
"""Of how many batches the channels' ranges are looked at, to even them out."""

Channels: TypeAlias = Mapping[str, tuple[int, ...]]
"""Exponents, or numbers of channels, by the name of a tensor."""

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
            given = wide_channels.without_parts(self.given)
            return dataclasses.replace(state, annotation=with_names(given, state.program))
        return dataclasses.replace(state, annotation=annotate(state.program, self.options))


@dataclass(frozen=True)
class Calibrate:
    """Chooses scales, and collects what corrections need, in one pass over the samples."""

    samples: Samples
    options: CalibrateOptions
    corrections: Sequence[Correction] = ()
    progress: Callable[[int], None] | None = None
    keep_samples: bool = False
    engine: Engine = field(default_factory=ThisProcess)
    warn: bool = True

    def __call__(self, state: State) -> State:
        """See `calibrate`."""
        if self.keep_samples:
            prepare_library_executors()
        needs = _needs(state, self.corrections, self.keep_samples)
        found = calibrate_with_statistics(
            state.program, state.annotation, self.samples, self.options, self.progress, needs, self.engine, self.warn
        )
        return dataclasses.replace(
            state, table=found.table, statistics=found.statistics, closest=found.closest, original=state.program
        )


@dataclass(frozen=True)
class TakeTable:
    """Takes scales as they are given; nothing is run."""

    given: CalibrationTable

    def __call__(self, state: State) -> State:
        """Return the state with the table.

        Raises:
            TableError: it was made for another model, or for one with other channels.
        """
        wanted, own = state.program.source_sha256, self.given.model_sha256
        if own != wanted:
            raise TableError(
                f"The calibration table was made for another model: its model_sha256 is {own[:12]}..., this one's "
                f"{wanted[:12]}.... Calibrate again, or write this model's into the table."
            )
        exponents = {} if self.given.equalization is UNSET else self.given.equalization
        wide = {} if self.given.wide_channels is UNSET else self.given.wide_channels
        program, annotation = _with_evened_channels(state.program, state.annotation, exponents, wide)
        annotation, table = channel_scales.agreed(program, annotation, self.given)
        return dataclasses.replace(state, program=program, annotation=annotation, table=table, original=program)


def _with_evened_channels(
    program: Program, annotation: Annotation, exponents: Channels, wide: Channels
) -> tuple[Program, Annotation]:
    """Return a program with its channels evened out, and wide ones set apart, and its annotation."""
    if exponents:
        program = equalization.equalized(program, annotation, exponents)
    return wide_channels.set_apart(program, annotation, wide) if wide else (program, annotation)


@dataclass(frozen=True)
class Collect:
    """Collects what corrections need, in one pass over the samples, where the scales are known already."""

    samples: Samples
    options: CalibrateOptions
    corrections: Sequence[Correction]
    progress: Callable[[int], None] | None = None
    engine: Engine = field(default_factory=ThisProcess)

    def __call__(self, state: State) -> State:
        """See `sharded.collect_with`."""
        needs = _needs(state, self.corrections, keep_samples=True)
        found = collect_with(self.engine, state.program, {}, needs, self.samples, self.options, self.progress)
        return dataclasses.replace(state, statistics=found.statistics)


def _needs(state: State, corrections: Sequence[Correction], keep_samples: bool) -> Iterable[Need]:
    """Return what corrections need, and the samples that what is done is checked on."""
    own = [need for c in corrections for need in c.needs(state.program, state.annotation)]
    checked_on = kept_needs(state.program, to_learn=any(need in own for need in kept_needs(state.program)))
    return dict.fromkeys([*(checked_on if keep_samples else ()), *own])


def watched_tensors(program: Program, annotation: Annotation, options: QuantizeOptions) -> tuple[str, ...]:
    """Return the tensors of a float program whose values are needed to quantize it."""
    corrections, state = wanted_corrections(options.corrections), State(program, annotation)
    equalize = wants_equalization(options.corrections) != "nowhere"
    needs = _needs(state, corrections, bool(corrections) or equalize)
    return tuple(dict.fromkeys([*annotation.specs(), *(need.tensor for need in needs)]))


@dataclass(frozen=True)
class CalibrateEqualized:
    """Calibrates the program as it is, and with its channels evened out, and takes what is better on held-back samples.

    Attributes:
        calibrate: chooses scales; it keeps samples.
        everywhere: whether all tensors are evened out where that is possible, or only those behind normalizations. If
            there are none of these, nothing is said about it.
    """

    calibrate: Calibrate
    everywhere: bool = True

    def __call__(self, state: State) -> State:
        """See `equalization`; the state says what became of it."""
        calibrated = self.calibrate(state)
        if not self.everywhere and not self._needs(state):
            return calibrated
        try:
            exponents, wide = self._chosen(state)
            program, annotation = _with_evened_channels(state.program, state.annotation, exponents, wide)
            # The file keeps the first pass.
            options = self.calibrate.options
            before = _measured(calibrated)
            anew = dataclasses.replace(self.calibrate, options=dataclasses.replace(options, resume=None), warn=False)
            other = anew(dataclasses.replace(state, program=program, annotation=annotation))
            table = msgspec.structs.replace(
                other.calibrated(), equalization=exponents or UNSET, wide_channels=wide or UNSET
            )
            other = dataclasses.replace(other, table=table)
            after = _measured(other)
        except CannotCorrect as reason:
            return _with_outcome(calibrated, CorrectionOutcome("equalization", kept=False, note=str(reason)))
        outcome = CorrectionOutcome("equalization", after > before, finite(before), finite(after))
        kept, sqnr = (other, after) if outcome.kept else (calibrated, before)
        return _with_outcome(dataclasses.replace(kept, sqnr_db=sqnr), outcome)

    def _chosen(self, state: State) -> tuple[Channels, Channels]:
        """Return by what powers of two channels are evened out, and which ones are set apart.

        Raises:
            CannotCorrect: there is nothing to even out, or samples can't be read another time.
        """
        samples, options = self.calibrate.samples, self.calibrate.options
        needs = self._needs(state)
        if not needs:
            raise CannotCorrect("no tensor stands between layers alone, with a rectifier or nothing on its way")
        if isinstance(samples, Iterator):
            raise CannotCorrect("it reads the samples more than once, and they are an iterator")
        limit = min(options.batch_nums or EQUALIZATION_BATCHES, EQUALIZATION_BATCHES)
        few = dataclasses.replace(options, batch_nums=limit, resume=None)
        found = collect_with(self.calibrate.engine, state.program, {}, needs, samples, few, warn=False)
        exponents = equalization.choose_exponents(state.program, state.annotation, found.statistics)
        wide = wide_channels.choose_channels(state.program, state.annotation, found.statistics)
        if not exponents and not wide:
            raise CannotCorrect("the channels are even already")
        return exponents, wide

    def _needs(self, state: State) -> tuple[Need, ...]:
        own = equalization.needs(state.program, state.annotation, self.everywhere)
        apart = wide_channels.needs(state.program, state.annotation) if own or self.everywhere else ()
        return tuple(dict.fromkeys([*own, *apart]))


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
            better = after > before + self.correction.least_gain_db(state)
            outcome = CorrectionOutcome(name, better, finite(before), finite(after))
        kept, sqnr = (corrected, after) if outcome.kept else (state, before)
        return _with_outcome(dataclasses.replace(kept, sqnr_db=sqnr), outcome)


def _with_outcome(state: State, outcome: CorrectionOutcome) -> State:
    _log.info("%s: %s", outcome.name, outcome)
    return dataclasses.replace(state, corrections=(*state.corrections, outcome))


def _measured(state: State) -> float:
    """Return the signal to quantization noise on held-back samples that the state's program would have in int8."""
    # What was computed to come here is free now; what comes next takes as much.
    release_activations()
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
    engine: Engine | None = None,
) -> tuple[Step, ...]:
    """Return the steps that make an int8 program of a float one, in order.

    Args:
        samples: what calibration runs on.
        options: what the user wants.
        annotation: decisions to take as they are.
        table: scales to take as they are.
        progress: called after each batch of samples with the number of batches so far.
        engine: runs the program on samples; None means this process.

    Raises:
        OptionError: see `check_options`.
    """
    engine = engine or ThisProcess()
    check_options(options, table_given=table is not None, samples_given=samples is not None)
    corrections = wanted_corrections(options.corrections)
    if table is None:
        given, equalize = samples if samples is not None else (), wants_equalization(options.corrections)
        keep_samples = equalize != "nowhere" or bool(corrections)
        calibrate = Calibrate(given, options.calibrate, corrections, progress, keep_samples, engine)
        equalized = CalibrateEqualized(calibrate, everywhere=equalize == "everywhere")
        ranges: tuple[Step, ...] = (calibrate if equalize == "nowhere" else equalized,)
    elif samples is not None and corrections:
        corrections = tuple(c for c in corrections if not c.changes_scales)
        ranges = (TakeTable(table), Collect(samples, options.calibrate, corrections, progress, engine))
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
