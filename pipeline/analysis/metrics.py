"""How good a model's outputs are: by their distance from the float model's, or by a metric of the user's."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import math
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.distances import Array, Distance
from pipeline.errors import MetricError, OptionError, unknown_name

SMALLEST_SHARE = 1e-12
"""Probabilities below count as this, so that no divergence is infinite."""


@dataclass(frozen=True)
class MeasuredSample:
    """What a user's metric may know of the sample that outputs were computed for.

    Attributes:
        name: the sample's: "sample 3", or its file, "samples/0003.npy".
        inputs: what the model was given, by name, with the batch axis.
        float_outputs: what the float model gives for it, by name.
    """

    name: str
    inputs: Mapping[str, Array]
    float_outputs: Mapping[str, Array]


@dataclass(frozen=True)
class UserMetric:
    """A function of the user's, of outputs by name and a `MeasuredSample`; more is better.

    Attributes:
        name: as the user gives it: "user.py:function".
        source: the file's bytes.
        function: the function.
    """

    name: str
    source: bytes
    function: Callable[[dict[str, Array], MeasuredSample], Any]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let other processes run the file themselves, as its functions are of no module that they could import."""
        if self.source:
            return _metric_of, (self.name, self.source)
        return UserMetric, (self.name, self.source, self.function)

    def __call__(self, outputs: Mapping[str, Array], sample: MeasuredSample, quantized: str) -> float:
        """Return what the function makes of a model's outputs.

        Args:
            outputs: by name.
            sample: what they were computed for.
            quantized: what of the model was quantized, for messages.

        Raises:
            MetricError: the function raised an exception, or what it returned is no finite number.
        """
        where = f"for {sample.name}, with {quantized}"
        try:
            value = self.function(dict(outputs), sample)
        except (Exception, SystemExit) as error:  # Whatever a function of somebody else's raises is that one's.
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise MetricError(
                f"The metric {self.name} raised {type(error).__name__} {where}: {error} ({place.filename}, line "
                f"{place.lineno})."
            ) from error
        if not isinstance(value, int | float | np.number | np.bool_) or isinstance(value, complex | np.complexfloating):
            kind = type(value).__name__
            raise MetricError(f"The metric {self.name} returned {kind} {where}; it must return one number.")
        if not math.isfinite(value):
            raise MetricError(f"The metric {self.name} returned {value} {where}; it must return a finite number.")
        return float(value)


def load_metric(name: str) -> UserMetric:
    """Return the function that `FILE.py:FUNCTION` names; the file is run, as Python runs any module it imports.

    Raises:
        MetricError: the file can't be read or raises an exception, or has no such function.
    """
    file, separator, _ = name.rpartition(":")
    path = Path(file)
    if not separator or path.suffix != ".py":
        raise MetricError(f"--metric {name}: expected {', '.join(BUILT_IN)}, or FILE.py:FUNCTION.")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise MetricError(f"The metric's file {path} can't be read: {error.strerror}.") from error
    return _metric_of(name, source)


class _Loader(importlib.abc.SourceLoader):
    """Loads a module from the bytes of its file."""

    def __init__(self, file: str, source: bytes) -> None:
        self._file, self._source = file, source

    def get_filename(self, fullname: str) -> str:
        """Return the name for tracebacks."""
        return self._file

    def get_data(self, path: str | bytes) -> bytes:
        """Return the source."""
        return self._source


def _metric_of(name: str, source: bytes) -> UserMetric:
    """Return the function that a name says, of a file of which these are the bytes.

    Raises:
        MetricError: the file raises an exception, or has no such function.
    """
    file, _, function = name.rpartition(":")
    path = Path(file)
    loader = _Loader(file, source)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(path.stem, loader, origin=file))
    module.__file__ = file
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # As above; a script may end with `sys.exit(main())`.
        raise MetricError(f"The metric's file {path} raised {type(error).__name__}: {error}.") from error
    functions = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if function not in functions:
        raise MetricError(f"{path}: {unknown_name('function', function, functions)}")
    return UserMetric(name, source, functions[function])


@dataclass
class Tally:
    """What was measured of one way to quantize a model, over all samples so far.

    Attributes:
        count: how many batches.
        distance: of all outputs.
        divergence: sum over batches of the outputs' Kullback-Leibler divergence from float's.
        own: sum over batches of the user's metric.
    """

    count: int = 0
    distance: Distance = field(default_factory=Distance)
    divergence: float = 0.0
    own: float = 0.0

    @classmethod
    def of(
        cls, outputs: Mapping[str, Array], sample: MeasuredSample, metric: UserMetric | str, quantized: str
    ) -> Tally:
        """Return the tally of one batch.

        Args:
            outputs: by name.
            sample: what they were computed for.
            metric: a key of `BUILT_IN`, or the user's.
            quantized: what of the model is quantized, for messages.

        Raises:
            MetricError: see `UserMetric`.
        """
        own = metric(outputs, sample, f"{quantized} quantized") if isinstance(metric, UserMetric) else 0.0
        tally = cls(1, own=own)
        for name, expected in sample.float_outputs.items():
            tally.distance.update(expected, outputs[name])
            tally.divergence += divergence(expected, outputs[name])
        return tally

    def merge(self, other: Tally) -> None:
        """Take in the tally of the next batch."""
        self.count += other.count
        self.distance.merge(other.distance)
        self.divergence += other.divergence
        self.own += other.own


def divergence(expected: Array, actual: Array) -> float:
    """Return the mean Kullback-Leibler divergence, in nats, of rows along the last axis; 0 for other than floats.

    Rows that aren't probabilities are made such by a softmax.
    """
    if not expected.size or not np.issubdtype(expected.dtype, np.floating):
        return 0.0
    rows = [np.nan_to_num(v.astype("float64")).reshape(-1, v.shape[-1] if v.ndim else 1) for v in (expected, actual)]
    given = bool((rows[0] >= 0).all() and np.allclose(rows[0].sum(axis=1), 1, atol=1e-3))
    p, q = (np.maximum(row if given else _softmax(row), SMALLEST_SHARE) for row in rows)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def _softmax(rows: Array) -> Array:
    exponentials = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Ranking:
    """What tallies are ranked by.

    Attributes:
        title: what it is called, for people.
        value: returns what a tally comes to.
        cost: returns how much worse that is than the float model's tally; costs of independent roundings add up.
        more_is_better: whether a larger value is.
        whole: returns for the float model's tally what a relative cost is a share of; 0 if there is no such thing.
    """

    title: str
    value: Callable[[Tally], float]
    cost: Callable[[Tally, Tally], float]
    more_is_better: bool = True
    whole: Callable[[Tally], float] = lambda best: 1.0

    def better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another."""
        return value > than if self.more_is_better else value < than


def _noise_share(tally: Tally, _: Tally) -> float:
    distance = tally.distance
    return distance.noise / distance.signal if distance.signal > 0 else (math.inf if distance.noise > 0 else 0.0)


def _divergence(tally: Tally) -> float:
    return tally.divergence / max(tally.count, 1)


BUILT_IN: Mapping[str, Ranking] = {
    "sqnr": Ranking("SQNR, dB", lambda t: t.distance.sqnr_db, _noise_share),
    "cosine": Ranking("cosine", lambda t: t.distance.cosine, lambda t, _: 1 - t.distance.cosine),
    "kl": Ranking("KL, nats", _divergence, lambda t, _: _divergence(t), more_is_better=False, whole=lambda best: 0.0),
}
"""The metrics that there are without a user's own."""


def ranking_of(metric: UserMetric | str) -> Ranking:
    """Return what a metric ranks by: one of `BUILT_IN`, or the user's."""
    if isinstance(metric, str):
        return BUILT_IN[metric]
    return Ranking(
        metric.name,
        value=_own_mean,
        cost=lambda t, best: (best.own - t.own) / max(t.count, 1),
        whole=lambda best: abs(_own_mean(best)),
    )


def _own_mean(tally: Tally) -> float:
    return tally.own / max(tally.count, 1)


def tally_of(
    run: Callable[[MeasuredSample], Mapping[str, Array]],
    samples: Iterable[MeasuredSample],
    metric: UserMetric | str,
    quantized: str,
) -> Tally:
    """Return what is measured of a way to quantize a model.

    Args:
        run: returns what the model gives for a sample, by name.
        samples: at least one.
        metric: a key of `BUILT_IN`, or the user's.
        quantized: what of the model is quantized, for messages.

    Raises:
        MetricError: see `UserMetric`.
    """
    tally = Tally()
    for sample in samples:
        tally.merge(Tally.of(run(sample), sample, metric, quantized))
    return tally


def share_of(cost: float, total: float) -> float:
    """Return the share that one cost is of the sum of all, 0 to 1; an infinite one is all of it."""
    if math.isinf(total):
        return 1.0 if math.isinf(cost) else 0.0
    return cost / total if total > 0 else 0.0


@dataclass(frozen=True)
class Drop:
    """How much worse than the float model an int8 model may be, by the cost of a `Ranking`.

    Attributes:
        amount: 0 or more.
        relative: whether it is a share of the float model's value, instead of a difference from it.
    """

    amount: float
    relative: bool

    @classmethod
    def of(cls, value: float | str) -> Drop:
        """Return what an option says: a number, or a text such as `0.005` or `0.5%`.

        Raises:
            OptionError: the text has another form, or the number is negative or not finite.
        """
        text = str(value).strip()
        relative = text.endswith("%")
        try:
            amount = float(text.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            amount = math.nan
        if not 0 <= amount < math.inf:
            raise OptionError(
                f"--max-drop is {text!r}; expected how much worse than float the model may be, as a difference (0.005) "
                "or relative to float's value (0.5%)."
            )
        return cls(amount, relative)

    def limit(self, ranking: Ranking, best: Tally) -> float:
        """Return the largest cost that is allowed.

        Args:
            ranking: what costs are measured by.
            best: the float model's tally.

        Raises:
            OptionError: the drop is relative, and there is nothing that it could be relative to.
        """
        if not self.relative:
            return self.amount
        if ranking.whole(best) == 0:
            raise OptionError(
                f"--max-drop {100 * self.amount:g}%: float's value of {ranking.title} is 0, and a share of that isn't "
                "a limit. Give a difference, without the percent sign."
            )
        return self.amount * ranking.whole(best)

    def __str__(self) -> str:
        """Return it as the option has it."""
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"
