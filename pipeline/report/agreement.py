"""How far an int8 model's outputs are from the float model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]


@dataclass(frozen=True)
class Agreement:
    """Comparison of two models over the same inputs.

    Attributes:
        samples: how many inputs were run.
        same_argmax: share of the inputs for which the largest value of the first output stands in the same place.
        sqnr_db: signal to quantization noise of all outputs, decibels; infinity if they are equal.
        inputs: which inputs these were, after a number of them: "calibration samples", for example.
    """

    samples: int
    same_argmax: float
    sqnr_db: float
    inputs: str

    def where(self) -> str:
        """Return what was measured on, for people."""
        return f"{self.samples} {self.inputs}"


def compare(float_run: Run, int8_run: Run, inputs: Iterable[Feeds], described: str) -> Agreement:
    """Run both models over the inputs and compare their outputs.

    Args:
        float_run: runs the float model on one batch.
        int8_run: runs the int8 model on one batch.
        inputs: at least one batch.
        described: what the inputs are, see `Agreement.inputs`.
    """
    samples = same = 0
    signal = noise = 0.0
    for feeds in inputs:
        expected, actual = float_run(feeds), int8_run(feeds)
        first = next(iter(expected))
        batch = expected[first].shape[0] if expected[first].ndim else 1
        rows = (expected[first].reshape(batch, -1).argmax(axis=1), actual[first].reshape(batch, -1).argmax(axis=1))
        samples += batch
        same += int((rows[0] == rows[1]).sum())
        for name, value in expected.items():
            exact = value.astype("float64")
            signal += float((exact**2).sum())
            noise += float(((exact - actual[name].astype("float64")) ** 2).sum())
    ratio = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
    return Agreement(samples, same / max(samples, 1), ratio, described)


def top1(outputs: Mapping[str, Array]) -> int:
    """Return the index of the largest value of the first output."""
    return int(np.argmax(next(iter(outputs.values()))))
