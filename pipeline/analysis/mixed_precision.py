"""Mixed precision: the few and cheap exceptions from 8 bits by which a model is good enough.

Forward selection and backward elimination, by a simulation of the int8 model: the shortest beginning of the trial order
that is good enough is found by doubling and bisection, and then each exception is given up again that turns out not to
be needed. The model with these exceptions is quantized and measured. If it isn't good enough after all, the search goes
on, with a limit that is lower by what the simulation was wrong.

Nothing here depends on how fast the machine is, so that the same model, samples and options give the same exceptions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.analysis.candidates import (
    FLOAT,
    WIDE,
    Candidate,
    Times,
    candidates,
    estimated_times,
    kept,
    trial_order,
    with_exceptions,
    without_idle,
)
from pipeline.analysis.metrics import Drop, MeasuredSample, Ranking, Tally, UserMetric, ranking_of, tally_of
from pipeline.analysis.simulation import Simulation
from pipeline.api import Quantized
from pipeline.compiler.execute import Executor
from pipeline.distances import Array
from pipeline.errors import QuantizationError, SampleError
from pipeline.ir.dataflow import Dataflow
from pipeline.quantization.annotate import AnnotateOptions, annotate

MEMORY, MOST_SAMPLES = 256 * 2**20, 512
"""Bytes that inputs and outputs of the samples may take that are measured on, and how many batches these may be."""

RANKED_ON = 16
"""On how many batches, at most, parts are quantized alone."""

GIVEN_UP_AT_MOST = 32
"""How many exceptions, the last ones of the trial order, are tried to be given up, one by one."""

QUANTIZATIONS = 4
"""How many times, at most, a model with exceptions is quantized to be measured."""

LARGEST_CORRECTION = 2.0
"""By how much, at most, the limit follows from what the simulation of the model without exceptions was wrong."""


@dataclass(frozen=True)
class PrecisionException:
    """What was excepted from int8.

    Attributes:
        kind: "float" or "16 bits".
        names: of the operators to leave in float, or of the tensor to keep in 16 bits.
        operators: names of all operators that compute otherwise for it, in order of execution: those that are in float,
            or that read or write tensors of 16 bits.
        gained: how much larger the drop would be without it, simulated; None if that wasn't tried.
        value_without: of the metric without it, simulated; None if that wasn't tried.
        time: how much longer these take, as a share of the whole float model's time; see `MixedPrecision.times`.
        milliseconds: how much longer they, and conversions beside them, take on this machine; None if that wasn't
            measured.
    """

    kind: str
    names: tuple[str, ...]
    operators: tuple[str, ...]
    gained: float | None
    value_without: float | None
    time: float
    milliseconds: float | None = None


@dataclass(frozen=True)
class Standing:
    """How good a model is on some samples.

    Attributes:
        value: of the metric.
        drop: how much worse than the float model's that is.
        limit: how large the drop may be.
    """

    value: float
    drop: float
    limit: float

    @property
    def excess(self) -> float:
        """The drop as a multiple of the limit; at most 1 if it is good enough."""
        if math.isnan(self.drop):
            return math.inf
        return 0.0 if self.drop <= 0 else self.drop / self.limit if self.limit > 0 else math.inf


@dataclass(frozen=True)
class Measured:
    """How good a model is.

    Attributes:
        searched: on the samples that the search uses.
        checked: on others.
    """

    searched: Standing
    checked: Standing

    @property
    def excess(self) -> float:
        """That of the worse of both; a model has to be good enough on both."""
        return max(self.searched.excess, self.checked.excess)


@dataclass(frozen=True)
class MixedPrecision:
    """What a search has found.

    Attributes:
        metric: what drops are measured by.
        max_drop: how large the drop may be, as it was asked for.
        inputs: which samples were measured on, in words.
        searched_on: number of batches that the search used.
        checked_on: number of other batches that the result was checked on.
        float_value: of the metric, for the float model, on the latter.
        int8: the model without exceptions.
        mixed: the model with them.
        exceptions: in the order in which they were chosen.
        times: where the times are known from by which exceptions were ordered.
        evaluations: how many models were simulated.
        quantizations: how many were quantized.
        int8_milliseconds: a run without exceptions on this machine; None if it wasn't measured.
        mixed_milliseconds: a run with them.
    """

    metric: str
    max_drop: str
    inputs: str
    searched_on: int
    checked_on: int
    float_value: float
    int8: Measured
    mixed: Measured
    exceptions: tuple[PrecisionException, ...]
    times: str
    evaluations: int
    quantizations: int
    int8_milliseconds: float | None = None
    mixed_milliseconds: float | None = None

    @property
    def keep_float(self) -> tuple[str, ...]:
        """Names of the operators that are to be left in float for the same model without a search."""
        return self._names(FLOAT)

    @property
    def keep_16(self) -> tuple[str, ...]:
        """Names of the tensors that are to be kept in 16 bits for that."""
        return self._names(WIDE)

    def _names(self, kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for e in self.exceptions if e.kind == kind for name in e.names))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self) | {"keep_float": self.keep_float, "keep_16": self.keep_16}


@dataclass(frozen=True)
class Mixed:
    """The models of a search.

    Attributes:
        quantized: with exceptions.
        without: without any; the same if there are none.
        found: what the search has found.
    """

    quantized: Quantized
    without: Quantized
    found: MixedPrecision


Quantize = Callable[[AnnotateOptions], Quantized]
Tell = Callable[[str, int, "int | None"], Any]


def mix_precision(
    quantize: Quantize,
    options: AnnotateOptions,
    feeds: Callable[[Quantized], Iterable[tuple[str, Mapping[str, Array]]]],
    described: str,
    metric: UserMetric | str,
    max_drop: Drop,
    progress: Tell = lambda what, done, total: None,
    times: Callable[[Quantized], Times] = lambda quantized: estimated_times(quantized.source),
) -> Mixed:
    """Return an int8 model whose metric drops by no more than is allowed, with as few and cheap exceptions as possible.

    Of the samples that are measured on, every other one is for the search, and those between them only say whether a
    result is accepted.

    Args:
        quantize: returns the model for options of what is quantized.
        options: what is quantized without exceptions.
        feeds: returns the samples to measure on for a model, each after what messages call it; at least two.
        described: see `MixedPrecision.inputs`.
        metric: a key of `metrics.BUILT_IN`, or the user's.
        max_drop: what is allowed.
        progress: called with what is being done, how many steps of that are done, and how many there are.
        times: returns what operators of a model cost in float and with 16 bits.

    Raises:
        QuantizationError: the drop can't be met; the message says what was reached.
        SampleError: there is only one sample to measure on.
        MetricError: see `UserMetric`.
        OptionError: see `Drop.limit`.
    """
    without = quantize(options)
    progress("measuring the int8 model", 0, None)
    samples = _measured_samples(Executor(without.source).run, feeds(without))
    if len(samples) < 2:
        raise SampleError(
            f"--max-drop needs at least two batches of samples to measure on, one for the search and one to check its "
            f"result on, and there is one among the {described}: give more samples, a larger --hold-back, or others "
            "with --check-samples."
        )
    search = _Search(quantize, options, without, (samples[::2], samples[1::2]), metric, max_drop, progress, times)
    return search.run(described)


def _measured_samples(
    run: Callable[[Mapping[str, Array]], dict[str, Array]], feeds: Iterable[tuple[str, Mapping[str, Array]]]
) -> list[MeasuredSample]:
    """Return the first samples with the float model's outputs: as many as memory is meant to hold, two at least."""
    found: list[MeasuredSample] = []
    size = 0
    for name, feed in itertools.islice(feeds, MOST_SAMPLES):
        sample = MeasuredSample(name, feed, run(feed))
        size += sum(a.nbytes for a in (*feed.values(), *sample.float_outputs.values()))
        if size > MEMORY and len(found) >= 2:
            break
        found.append(sample)
    return found


class _Search:
    """One search.

    Attributes:
        evaluations, quantizations: see `MixedPrecision`.
    """

    def __init__(
        self,
        quantize: Quantize,
        options: AnnotateOptions,
        without: Quantized,
        samples: tuple[Sequence[MeasuredSample], Sequence[MeasuredSample]],
        metric: UserMetric | str,
        max_drop: Drop,
        progress: Tell,
        times: Callable[[Quantized], Times],
    ) -> None:
        self.quantize, self.options, self.without, self.samples = quantize, options, without, samples
        self.metric, self.max_drop, self.progress = metric, max_drop, progress
        self.ranking: Ranking = ranking_of(metric)
        self.best = tuple(tally_of(lambda s: s.float_outputs, own, metric, "nothing") for own in samples)
        self.limits = tuple(max_drop.limit(self.ranking, best) for best in self.best)
        self.measured_times, self.times = times, Times({}, {}, {}, "not needed")
        self.quantizations = 1
        self.simulated: dict[tuple[frozenset[str], ...], Standing] = {}

    @property
    def evaluations(self) -> int:
        return len(self.simulated)

    def run(self, described: str) -> Mixed:
        int8 = self.measured(self.without, _described(()))
        if int8.excess <= 1:
            return self.result(described, int8, self.without, int8, ())
        self.prepare()
        simulated, measured = self.standing(()).drop, int8.searched.drop
        wrong = simulated / measured if simulated > 0 and 0 < measured < math.inf else 1.0
        allowed = self.limits[0] * min(max(wrong, 1 / LARGEST_CORRECTION), LARGEST_CORRECTION)
        tried, fewest = [(int8, tuple[Candidate, ...]())], 1
        most = without_idle(self.order)
        while fewest <= len(most) and self.quantizations <= QUANTIZATIONS:
            chosen = self.few(allowed, fewest)
            model = self.quantize(with_exceptions(self.options, chosen))
            self.quantizations += 1
            reached = self.measured(model, _described(chosen))
            if reached.excess <= 1:
                return self.result(described, int8, model, reached, chosen)
            tried.append((reached, chosen))
            if chosen == most:
                break
            simulated = self.standing(chosen).drop
            if simulated > 0:
                allowed, fewest = min(allowed, simulated / reached.excess), len(chosen) + 1
            else:
                # The simulation can't tell them apart: a metric that counts answers on few samples, for example.
                fewest = 2 * len(chosen)
        # Where nothing may be lost, all drops are infinitely too large.
        raise self.failure(*min(tried, key=lambda t: (t[0].excess, max(t[0].searched.drop, t[0].checked.drop))))

    def measured(self, model: Quantized, described: str) -> Measured:
        run = Executor(model.program).run
        standings = (
            self.compared(tally_of(lambda s: run(s.inputs), own, self.metric, described), place)
            for place, own in enumerate(self.samples)
        )
        return Measured(*standings)

    def compared(self, tally: Tally, place: int) -> Standing:
        best = self.best[place]
        return Standing(self.ranking.value(tally), self.ranking.cost(tally, best), self.limits[place])

    def prepare(self) -> None:
        """Find out in which order exceptions are to be tried."""
        self.progress("preparing to measure parts alone", 0, None)
        self.simulation = Simulation(self.without)
        total = len(self.simulation.parts)
        shares = self.simulation.shares(
            self.samples[0][:RANKED_ON], self.metric, lambda done: self.progress("measuring parts alone", done, total)
        )
        self.progress("trying exceptions", 0, None)
        self.times = self.measured_times(self.without)
        choices = candidates(self.without.source, self.options, self.without.annotation, self.simulation.parts)
        self.order = trial_order(choices, shares, self.times)

    def standing(self, chosen: Sequence[Candidate]) -> Standing:
        """Return how good a model with exceptions is, simulated, on the samples of the search."""
        key = (frozenset(kept(chosen, FLOAT)), frozenset(kept(chosen, WIDE)))
        if key not in self.simulated:
            annotation = annotate(self.without.source, with_exceptions(self.options, chosen), warn=False)
            tally = self.simulation.tally(annotation, self.samples[0], self.metric, _described(chosen))
            self.simulated[key] = self.compared(tally, 0)
            self.progress("trying exceptions", self.evaluations, None)
        return self.simulated[key]

    def few(self, allowed: float, fewest: int) -> tuple[Candidate, ...]:
        """Return as few candidates as possible, but not fewer than some, with which a simulated drop is allowed.

        If no number of them is enough, these are all.
        """

        def enough(chosen: Sequence[Candidate]) -> bool:
            return self.standing(chosen).drop <= allowed

        beginnings = [without_idle(self.order[: count + 1]) for count in range(len(self.order))]
        beginnings = [b for b in beginnings if len(b) >= fewest] or beginnings[-1:]
        chosen = list(beginnings[smallest(lambda place: enough(beginnings[place]), 0, len(beginnings) - 1)])
        if not enough(chosen):
            return tuple(chosen)
        for candidate in reversed(chosen[-GIVEN_UP_AT_MOST:]):
            others = [c for c in chosen if c is not candidate]
            if len(others) >= fewest and enough(others):
                chosen = others
        return tuple(chosen)

    def result(
        self,
        described: str,
        int8: Measured,
        model: Quantized,
        reached: Measured,
        chosen: Sequence[Candidate],
    ) -> Mixed:
        exceptions = tuple(self.exception(candidate, chosen) for candidate in chosen)
        found = MixedPrecision(
            metric=self.ranking.title,
            max_drop=str(self.max_drop),
            inputs=described,
            searched_on=len(self.samples[0]),
            checked_on=len(self.samples[1]),
            float_value=self.ranking.value(self.best[1]),
            int8=int8,
            mixed=reached,
            exceptions=exceptions,
            times=self.times.origin,
            evaluations=self.evaluations,
            quantizations=self.quantizations,
        )
        return Mixed(model, self.without, found)

    def exception(self, candidate: Candidate, chosen: Sequence[Candidate]) -> PrecisionException:
        """Return what a candidate has gained among those that were chosen."""
        gained = value = None
        if len(chosen) <= GIVEN_UP_AT_MOST:
            other = self.standing([c for c in chosen if c is not candidate])
            gained, value = other.drop - self.standing(chosen).drop, other.value
        return PrecisionException(
            kind=candidate.kind,
            names=candidate.names,
            operators=self.operators(candidate),
            gained=gained,
            value_without=value,
            time=self.times.of(candidate.operators, candidate.tensors),
        )

    def operators(self, candidate: Candidate) -> tuple[str, ...]:
        """Return the operators that compute otherwise for a candidate, in order of execution."""
        found = set(candidate.operators)
        for binding in Dataflow.of(self.without.source.module).bindings:
            touched = (binding.var, *binding.reads)
            if any(str(v.name) in candidate.tensors for v in touched):
                found.add(str(binding.var.name))
        return tuple(name for name in self.times.extra if name in found)

    def failure(self, reached: Measured, chosen: Sequence[Candidate]) -> QuantizationError:
        """Return the error that says what was reached at the best."""
        sets = (reached.searched, reached.checked)
        worse = max(sets, key=lambda standing: standing.excess)
        place = sets.index(worse)
        return QuantizationError(
            f"--max-drop {self.max_drop} can't be met: the best that was reached is {self.ranking.title} "
            f"{worse.value:.5g}, where float has {self.ranking.value(self.best[place]):.5g}, which is a drop of "
            f"{worse.drop:.4g}; {worse.limit:.4g} is allowed. That was with {_exceptions(chosen)}. Nothing was "
            "written. Allow more, or try more, and more typical, samples, or another --algorithm or --effort."
        )


def smallest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number from `low` to `high` for which something holds, or `high`, if it holds for none.

    Where it holds for a number, it should hold for all larger ones. Numbers are tried by doubling, then bisection.

    Args:
        holds: is asked for numbers below `high` only.
        low: the smallest that is considered.
        high: the largest.
    """
    step, failed = 1, low - 1
    while failed + step < high and not holds(failed + step):
        failed, step = failed + step, 2 * step
    found = min(failed + step, high)
    while found - failed > 1:
        middle = (failed + found) // 2
        if holds(middle):
            found = middle
        else:
            failed = middle
    return found


def _described(chosen: Sequence[Candidate]) -> str:
    """Return what of a model is quantized, for messages."""
    return f"all of the model but {_exceptions(chosen)}" if chosen else "all of the model"


def _exceptions(chosen: Sequence[Candidate]) -> str:
    parts = [f"{_listed(names)} in {kind}" for kind in (FLOAT, WIDE) if (names := kept(chosen, kind))]
    return " and ".join(parts) or "all in int8"


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
