"""How far an int8 model's outputs are from the float model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.distances import Distance
from pipeline.scale_out import Run

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Agreement:
    """Comparison of two models over the same inputs.

    Attributes:
        samples: how many inputs were run.
        same_argmax: share of the inputs for which the largest value of the first output has the same index, 0 to 1.
        sqnr_db: signal to quantization noise of all outputs, decibels; infinity if they are equal, minus infinity if
            there is no signal, or a value is finite in one model only.
        inputs: what the inputs were, in words that follow their number: "of the calibration samples".
    """

    samples: int
    same_argmax: float
    sqnr_db: float
    inputs: str

    def where(self) -> str:
        """Return how many inputs were run and which, in words: "16 of the calibration samples"."""
        return f"{self.samples} {self.inputs}"


def shortfalls(agreement: Agreement, min_sqnr: float | None, min_agreement: float | None) -> tuple[str, ...]:
    """Return a sentence for each measurement that is below its required minimum.

    Args:
        agreement: the measurements.
        min_sqnr: smallest SQNR that is required, decibels; None if there is no requirement.
        min_agreement: smallest `same_argmax` that is required; None if there is no requirement.
    """
    where = agreement.where()
    missed = []
    if min_sqnr is not None and not agreement.sqnr_db >= min_sqnr:
        missed.append(
            f"The signal to quantization noise ratio is {agreement.sqnr_db:.2f} dB on {where}; {min_sqnr:g} dB were "
            "asked for."
        )
    if min_agreement is not None and not agreement.same_argmax >= min_agreement:
        missed.append(
            f"The answer is the same as float's on {agreement.same_argmax:.4g} of {where}; {min_agreement:g} was asked "
            "for."
        )
    return tuple(missed)


def compare(float_run: Run, int8_run: Run, inputs: Iterable[Feeds], described: str) -> Agreement:
    """Run both models over the inputs and compare their outputs.

    Args:
        float_run: runs the float model on one batch.
        int8_run: runs the int8 model on one batch.
        inputs: at least one batch.
        described: what the inputs are; see `Agreement.inputs`.
    """
    work, runs = OutputsCompared(), (float_run, int8_run)
    return agreement_of((found for feeds in inputs for found in work(runs, feeds)), described)


@dataclass(frozen=True)
class ComparedBatch:
    """What was compared of one batch.

    Attributes:
        samples: how many inputs it has.
        same: for how many of these the answer is the same.
        distance: of all outputs.
    """

    samples: int
    same: int
    distance: Distance


@dataclass(frozen=True)
class OutputsCompared:
    """Work that an engine may share out: runs the float model and the int8 model on a batch."""

    def __call__(self, runs: Sequence[Run], item: Feeds) -> Iterator[ComparedBatch]:
        """Yield what was compared, once."""
        expected, actual = (run(item) for run in runs)
        first, distance = next(iter(expected)), Distance()
        batch = max((np.shape(array) for array in item.values()), key=len, default=())[:1]
        same = _argmax_per_sample(expected[first], *batch) == _argmax_per_sample(actual[first], *batch)
        for name, value in expected.items():
            distance.update(value, actual[name])
        yield ComparedBatch(same.size, int(same.sum()), distance)


def agreement_of(batches: Iterable[ComparedBatch], described: str) -> Agreement:
    """Return the agreement over batches.

    Args:
        batches: at least one.
        described: see `Agreement.inputs`.
    """
    samples, same, distance = 0, 0, Distance()
    for batch in batches:
        samples += batch.samples
        same += batch.same
        distance.merge(batch.distance)
    return Agreement(samples, same / max(samples, 1), distance.sqnr_db, described)


def _argmax_per_sample(output: Array, batch: int = 1) -> Array:
    """Return for each input of a batch the index of the output's largest value [batch]; 0 if there are no values.

    If the output's first axis isn't the batch axis, it is one answer for the whole batch.
    """
    if output.size == 0:
        return np.zeros(batch, "int64")
    rows = output.reshape(batch if output.shape[:1] == (batch,) else 1, -1)
    return np.broadcast_to(rows.argmax(axis=1), (batch,))


def top1(outputs: Mapping[str, Array]) -> int:
    """Return the index of the largest value of the first output."""
    return int(np.argmax(next(iter(outputs.values()))))
