"""What it costs to quantize each tensor and each layer of a model alone, all else in float.

Independent roundings' noise adds up at the output, nearly, so what the single ones cost says which to leave in float.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.analysis.metrics import (
    BUILT_IN,
    MeasuredSample,
    Ranking,
    Tally,
    UserMetric,
    ranking_of,
    share_of,
)
from pipeline.analysis.switches import LAYER, Part, SwitchedProgram, Switches, with_switches
from pipeline.api import Quantized
from pipeline.distances import Array, Distance
from pipeline.errors import OptionError
from pipeline.files import arrays_digest, write_text
from pipeline.scale_out import Engine, Run, ThisProcess
from pipeline.schema import Record, read_json, to_json

SECONDS_BETWEEN_SAVES = 5.0
"""How much work an end without notice may cost."""

ENOUGH, AT_MOST = 0.75, 5
"""Share of the cost that a suggestion is to take away, and how many tensors and layers' weights it may take for it."""

NOTHING = "nothing"
"""What is quantized when the float model itself is measured, in messages and state files."""


@dataclass(frozen=True)
class Cost:
    """What quantizing one part alone costs.

    Attributes:
        kind: "tensor", "weights" or "layer"; see `switches.Part`.
        name: its name.
        operator: the operator's type.
        cost: how much worse than float's the metric is, 0 for not at all: of SQNR noise by signal, of a user's metric
            the difference.
        share: of the cost of all tensors and weights; a layer's is that of what it consists of, which count as well.
        value: of the metric that is ranked by.
        sqnr_db: of the outputs, decibels.
        cosine: of the outputs.
        divergence: of the outputs, Kullback-Leibler, nats.
        keep_float: operators that have to stay in float for this one to stay so.
    """

    kind: str
    name: str
    operator: str
    cost: float
    share: float
    value: float
    sqnr_db: float
    cosine: float
    divergence: float
    keep_float: tuple[str, ...]


@dataclass(frozen=True)
class Suggestion:
    """What to leave in float.

    Attributes:
        keep_float: names of operators.
        share: of the cost that this takes away, as far as costs add up.
        before: value of the metric with all that can be in int8.
        after: the same with these operators in float; None if that wasn't measured.
        helps: whether that is better, or wasn't measured: costs that are next to nothing needn't add up.
    """

    keep_float: tuple[str, ...]
    share: float
    before: float | None = None
    after: float | None = None
    helps: bool = True


@dataclass(frozen=True)
class Sensitivity:
    """All parts of a model, those that cost most first.

    Attributes:
        model: the model's name.
        metric: what they are ranked by.
        samples: how many batches were run.
        inputs: which these were, after their number.
        float_value: of the metric, for the float model.
        costs: of tensors, weights and layers.
        suggestion: what to do about it.
    """

    model: str
    metric: str
    samples: int
    inputs: str
    float_value: float
    costs: tuple[Cost, ...]
    suggestion: Suggestion

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        return asdict(self)


class _TallyRecord(Record, frozen=True, kw_only=True):
    """A tally in a file.

    Attributes:
        count: see `Tally`.
        distance: its sums, None for infinity, which JSON hasn't.
        divergence: see `Tally`.
        own: see `Tally`.
    """

    count: int
    distance: tuple[float | None, ...]
    divergence: float
    own: float


class SensitivityState(Record, frozen=True, kw_only=True):
    """What was measured so far.

    Attributes:
        schema_version: of this format.
        fingerprint: SHA-256 of model, scales, decisions and metric.
        samples: SHA-256 of each sample that was run, or begun with.
        tallies: by what was quantized.
    """

    schema_version: Literal[1] = 1
    fingerprint: str
    samples: tuple[str, ...]
    tallies: dict[str, _TallyRecord]


def measure_sensitivity(
    quantized: Quantized,
    feeds: Iterable[tuple[str, Mapping[str, Array]]],
    described: str,
    metric: UserMetric | str,
    state: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, each: None,
    engine: Engine | None = None,
) -> Sensitivity:
    """Run a model over samples, for each sample once with each part quantized, and rank the parts.

    Memory holds one sample's activations and a few sums for each part.

    Args:
        quantized: the model; its float program is run.
        feeds: at least one batch, each after what messages call it.
        described: see `Sensitivity.inputs`.
        metric: a key of `metrics.BUILT_IN`, or the user's.
        state: file to keep what was measured in, and to go on from. A run that goes on gives the very result of
            one that was never interrupted.
        progress: called with the number of runs so far, and with how many each batch takes.
        engine: runs the model; None means this process.

    Raises:
        MetricError: see `UserMetric`.
        OptionError: the state is of another model, metric or samples, or can't be read or written.
    """
    switched = with_switches(quantized.source, quantized.annotation, quantized.table)
    measured = _Measured(switched, metric, _fingerprint(quantized, metric), state)
    work = _Measuring(Switches(switched.parts, switched.switches), metric)
    results = (engine or ThisProcess()).map(work, [switched.program], measured.begun(feeds))
    try:
        for done, (part, tally) in enumerate(results, 1):
            measured.update(part, tally)
            progress(done, len(measured.tallies))
    finally:
        measured.save()
    measured.check_complete()
    return _result(quantized, measured, described)


@dataclass(frozen=True)
class _Sample:
    """A sample to measure on.

    Attributes:
        name: in messages.
        feed: the inputs by name.
        measured: parts that have been measured on it.
    """

    name: str
    feed: Mapping[str, Array]
    measured: frozenset[Part | None]


@dataclass(frozen=True)
class _Measuring:
    """The work: runs the program with each part quantized, and compares it with float.

    Attributes:
        switches: of the program.
        metric: see `measure_sensitivity`.
    """

    switches: Switches
    metric: UserMetric | str

    def __call__(self, runs: Sequence[Run], item: _Sample) -> Iterator[tuple[Part | None, Tally | None]]:
        """Yield each part and its tally, None if it has been measured."""
        parts = (None, *self.switches.parts)
        if item.measured.issuperset(parts):
            yield from ((part, None) for part in parts)
            return
        run = runs[0]
        sample = MeasuredSample(item.name, item.feed, run(self.switches.feeds(item.feed)))
        for part in parts:
            if part in item.measured:
                yield part, None
            elif part is None:
                yield part, Tally.of(sample.float_outputs, sample, self.metric, NOTHING)
            else:
                outputs = run(self.switches.feeds(item.feed, part))
                yield part, Tally.of(outputs, sample, self.metric, f"{part} alone")


def read_state(path: Path) -> SensitivityState:
    """Read what a run has kept in a file.

    Raises:
        OptionError: it can't be read, isn't JSON, or doesn't fit the schema.
    """
    return read_json(path, SensitivityState, "state of a sensitivity run", OptionError)


class _Measured:
    """The tallies, in memory and in a file."""

    def __init__(
        self, switched: SwitchedProgram, metric: UserMetric | str, fingerprint: str, path: Path | None
    ) -> None:
        self.metric, self.path = metric, path
        self.tallies: dict[Part | None, Tally] = {part: Tally() for part in (None, *switched.parts)}
        self._fingerprint, self._samples, self._saved = fingerprint, list[str](), time.monotonic()
        self._count = 0
        if path is not None and path.exists():
            self._load(path)

    def begun(self, feeds: Iterable[tuple[str, Mapping[str, Array]]]) -> Iterator[_Sample]:
        """Yield samples to measure on, and note each when it is begun with.

        Raises:
            OptionError: at the place of a sample, another one was measured.
        """
        for index, (name, feed) in enumerate(feeds):
            self._begin(index, name, feed)
            self._count = index + 1
            yield _Sample(name, feed, frozenset(part for part, tally in self.tallies.items() if tally.count > index))

    def _begin(self, index: int, name: str, feed: Mapping[str, Array]) -> None:
        digest = arrays_digest(feed).hex()
        if index == len(self._samples):
            self._samples.append(digest)
        elif self._samples[index] != digest:
            raise OptionError(
                f"The state {self.path} was measured on other samples: {name} is another one. Delete it, or name "
                "another file."
            )

    def update(self, part: Part | None, tally: Tally | None) -> None:
        """Take in what was measured of a part on the next sample, if anything was, and save now and then."""
        if tally is not None:
            self.tallies[part].merge(tally)
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def check_complete(self) -> None:
        """Refuse a state of more samples than were asked for: not all parts may have been measured on the last.

        Raises:
            OptionError: the state holds more.
        """
        held, count = len(self._samples), self._count
        if count < held:
            raise OptionError(
                f"The state {self.path} holds {held} samples, and {count} are asked for. Measure as many, or name "
                "another file."
            )

    def save(self) -> None:
        """Write the state, if there is a file for it."""
        self._saved = time.monotonic()
        if self.path is None:
            return
        tallies = {_key(part): _to_record(tally) for part, tally in self.tallies.items()}
        state = SensitivityState(fingerprint=self._fingerprint, samples=tuple(self._samples), tallies=tallies)
        write_text(self.path, to_json(state))

    def _load(self, path: Path) -> None:
        state = read_state(path)
        if state.fingerprint != self._fingerprint or set(state.tallies) != {_key(part) for part in self.tallies}:
            raise OptionError(
                f"The state {path} was measured with another model, calibration, metric or other options. Delete it, "
                "or name another file."
            )
        self._samples = list(state.samples)
        self.tallies = {part: _from_record(state.tallies[_key(part)]) for part in self.tallies}


def _key(part: Part | None) -> str:
    return NOTHING if part is None else f"{part.kind} {part.name}"


def _to_record(tally: Tally) -> _TallyRecord:
    sums = tuple(None if math.isinf(v) else v for v in dataclasses.astuple(tally.distance))
    return _TallyRecord(count=tally.count, distance=sums, divergence=tally.divergence, own=tally.own)


def _from_record(record: _TallyRecord) -> Tally:
    distance = Distance(*(math.inf if v is None else v for v in record.distance))
    return Tally(record.count, distance, record.divergence, record.own)


def _fingerprint(quantized: Quantized, metric: UserMetric | str) -> str:
    """Return the SHA-256 of all that a measurement depends on, but for the samples."""
    hashed = hashlib.sha256(quantized.source.source_sha256.encode())
    hashed.update(quantized.table.to_json().encode())
    hashed.update(to_json(quantized.annotation).encode())
    # Sums of all metrics that there are without a user's are kept, so these may change.
    hashed.update(metric.name.encode() + metric.source if isinstance(metric, UserMetric) else b"")
    return hashed.hexdigest()


def _result(quantized: Quantized, measured: _Measured, described: str) -> Sensitivity:
    ranking, best = ranking_of(measured.metric), measured.tallies[None]
    costs = {p: _at_least_0(ranking.cost(t, best)) for p, t in measured.tallies.items() if p is not None}
    total = sum(cost for part, cost in costs.items() if part.kind != LAYER)
    parts = sorted(costs, key=lambda part: -costs[part])
    return Sensitivity(
        model=quantized.program.name,
        metric=ranking.title,
        samples=best.count,
        inputs=described,
        float_value=ranking.value(best),
        costs=tuple(_cost(p, measured.tallies[p], ranking, costs[p], share_of(costs[p], total)) for p in parts),
        suggestion=_suggestion([p for p in parts if p.kind != LAYER], costs, total),
    )


def value_of(
    quantized: Quantized,
    feeds: Iterable[tuple[str, Mapping[str, Array]]],
    metric: UserMetric | str,
    engine: Engine | None = None,
) -> float:
    """Return the value of a metric for an int8 model.

    Args:
        quantized: the model.
        feeds: at least one batch, each after what messages call it.
        metric: see `measure_sensitivity`.
        engine: runs the model; None means this process.

    Raises:
        MetricError: see `UserMetric`.
    """
    tally = Tally()
    for own in (engine or ThisProcess()).map(_Judging(metric), [quantized.source, quantized.program], feeds):
        tally.merge(own)
    return ranking_of(metric).value(tally)


@dataclass(frozen=True)
class _Judging:
    """The work: runs the float and the int8 model."""

    metric: UserMetric | str

    def __call__(self, runs: Sequence[Run], item: tuple[str, Mapping[str, Array]]) -> Iterator[Tally]:
        """Yield the tally of a batch, once."""
        (float_run, int8_run), (name, feed) = runs, item
        yield Tally.of(int8_run(feed), MeasuredSample(name, feed, float_run(feed)), self.metric, "all of the model")


def _at_least_0(cost: float) -> float:
    """Return a cost; where rounding made things better by chance, none."""
    return max(cost, 0.0)


def _cost(part: Part, tally: Tally, ranking: Ranking, cost: float, share: float) -> Cost:
    return Cost(
        kind=part.kind,
        name=part.name,
        operator=part.operator,
        cost=cost,
        share=share,
        value=ranking.value(tally),
        sqnr_db=tally.distance.sqnr_db,
        cosine=tally.distance.cosine,
        divergence=BUILT_IN["kl"].value(tally),
        keep_float=part.readers,
    )


def _suggestion(parts: list[Part], costs: Mapping[Part, float], total: float) -> Suggestion:
    """Return what keeps the worst parts in float, until most of the cost is gone.

    Args:
        parts: tensors and weights, those that cost most first.
        costs: of each.
        total: of all of them.
    """
    kept: dict[str, None] = {}
    removed = 0.0
    for part in parts[:AT_MOST]:
        if removed >= ENOUGH or costs[part] <= 0:
            break
        kept |= dict.fromkeys(part.readers)
        removed = sum(share_of(costs[p], total) for p in parts if set(p.readers) <= set(kept))
    return Suggestion(tuple(kept), removed)
