"""How good a model's answers are, added up over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.distances import Distance
from pipeline.report.agreement import top1

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


class Tally(Protocol):
    """Adds up a metric over samples."""

    def update(self, feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> None:
        """Take in one sample: its inputs, its label, and the answers of the float model and of the other."""

    @property
    def value(self) -> float:
        """What all samples together come to."""


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        title: what tables call it.
        start: returns a new tally.
        more_is_better: whether a larger value is.
        of_float: what the float model comes to; None if it has to be measured.
        digits: how many are shown behind the point.
    """

    title: str
    start: Callable[[], Tally]
    more_is_better: bool = True
    of_float: float | None = None
    digits: int = 3


class Share:
    """The share of samples, or of their parts, for which something holds; or the mean of something."""

    def __init__(self, judge: Callable[[Outputs, Any, Outputs, Outputs], tuple[float, float]]) -> None:
        """Take a function of a sample as in `Tally.update`, which returns what to add to sum and count."""
        self._judge, self._sum, self._count = judge, 0.0, 0.0

    def update(self, feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> None:
        """Take in one sample."""
        value, count = self._judge(feeds, label, expected, actual)
        self._sum += value
        self._count += count

    @property
    def value(self) -> float:
        """The share so far."""
        return self._sum / max(self._count, 1)


class Sqnr:
    """Signal to quantization noise ratio of all outputs together, decibels."""

    def __init__(self) -> None:
        self._distance = Distance()

    def update(self, feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> None:
        """Take in one sample."""
        for name, value in expected.items():
            self._distance.update(value, actual[name])

    @property
    def value(self) -> float:
        """The ratio so far."""
        return self._distance.sqnr_db


def _first(outputs: Outputs) -> Array:
    return next(iter(outputs.values()))


def _right(feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> tuple[float, float]:
    return float(top1(actual) == label), 1


def _same(feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> tuple[float, float]:
    return float(top1(actual) == top1(expected)), 1


def _sentence_cosine(feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> tuple[float, float]:
    """Compare a sentence's embeddings: the means over its tokens."""
    mask = feeds["attention_mask"][0].astype(bool)
    left, right = (_first(outputs)[0][mask].mean(axis=0).astype("float64") for outputs in (expected, actual))
    return float(left @ right / np.sqrt((left @ left) * (right @ right))), 1


def character_errors(characters: Sequence[str]) -> Metric:
    """Return the metric of text recognition: edits that make an answer the label, for each of its characters.

    Args:
        characters: of the model's classes; the first one is the blank of connectionist temporal classification.
    """

    def judge(feeds: Outputs, label: Any, expected: Outputs, actual: Outputs) -> tuple[float, float]:
        best = _first(actual)[0].argmax(axis=1)
        kept = (c for i, c in enumerate(best) if c and (i == 0 or best[i - 1] != c))
        return edits("".join(characters[c] for c in kept).strip(), str(label)), len(label)

    return Metric("character error rate", lambda: Share(judge), more_is_better=False, digits=4)


def edits(left: str, right: str) -> int:
    """Return the Levenshtein distance of two texts."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


ACCURACY = Metric("accuracy", lambda: Share(_right))
AGREEMENT = Metric("same top-1 as float", lambda: Share(_same), of_float=1.0)
SENTENCE_COSINE = Metric("cosine of embeddings", lambda: Share(_sentence_cosine), of_float=1.0, digits=4)
SQNR = Metric("SQNR, dB", Sqnr, of_float=float("inf"), digits=1)
