"""How far an int8 model's outputs are from the float model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.distances import Distance

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]


@dataclass(frozen=True)
class Agreement:
    """Comparison of two models over the same inputs.

    Attributes:
        samples: how many inputs were run.
        same_argmax: share of the inputs for which the largest value of the first output stands in the same place.
        sqnr_db: signal to quantization noise of all outputs, decibels; infinity if they are equal, minus infinity if
            there is no signal, or a value is finite in one model only.
        inputs: which inputs these were, after a number of them: "calibration samples", for example.
    """

    samples: int
    same_argmax: float
    sqnr_db: float
    inputs: str

    def where(self) -> str:
        """Return what was measured on, for people."""
        return f"{self.samples} {self.inputs}"


def shortfalls(agreement: Agreement, min_sqnr: float | None, min_agreement: float | None) -> tuple[str, ...]:
    """Return in sentences what is less than was asked for.

    Args:
        agreement: what was measured.
        min_sqnr: decibels; None if any will do.
        min_agreement: share of the same answers; None if any will do.
    """
    where = agreement.where()
    missed = []
    if min_sqnr is not None and not agreement.sqnr_db >= min_sqnr:
        missed.append(
            f"The signal to quantization noise is {agreement.sqnr_db:.2f} dB on {where}; {min_sqnr:g} dB were asked "
            "for."
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
        described: what the inputs are, see `Agreement.inputs`.
    """
    samples = same = 0
    distance = Distance()
    for feeds in inputs:
        expected, actual = float_run(feeds), int8_run(feeds)
        first = next(iter(expected))
        batch = max((np.shape(array) for array in feeds.values()), key=len, default=())[:1]
        same_answers = _argmax_per_sample(expected[first], *batch) == _argmax_per_sample(actual[first], *batch)
        samples += same_answers.size
        same += int(same_answers.sum())
        for name, value in expected.items():
            distance.update(value, actual[name])
    return Agreement(samples, same / max(samples, 1), distance.sqnr_db, described)


def _argmax_per_sample(output: Array, batch: int = 1) -> Array:
    """Return where the largest value of the output for each input of a batch stands; 0 where there are no values.

    An output whose first axis isn't the batch's holds one answer for all.
    """
    if output.size == 0:
        return np.zeros(batch, "int64")
    rows = output.reshape(batch if output.shape[:1] == (batch,) else 1, -1)
    return np.broadcast_to(rows.argmax(axis=1), (batch,))


def top1(outputs: Mapping[str, Array]) -> int:
    """Return the index of the largest value of the first output."""
    return int(np.argmax(next(iter(outputs.values()))))
