"""Calibration algorithms: how a threshold comes out of the values a tensor takes.

An algorithm is a class that sees every batch once and then names the threshold. To add one: a class with the methods of
`Observer`, and a row in `ALGORITHMS`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, unknown_name
from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.kl import kl_threshold


class Observer(Protocol):
    """Collects what a tensor's threshold depends on, in memory that doesn't grow with the data.

    Attributes:
        minimum: smallest value seen; infinity before the first.
        maximum: largest value seen; minus infinity before the first.
    """

    minimum: float
    maximum: float

    def update(self, values: npt.NDArray[Any]) -> None:
        """Take in the tensor's values for one batch: any shape, float32, finite."""

    def merge(self, other: Any) -> None:
        """Take in what an observer of the same kind has seen."""

    def threshold(self, levels: int) -> float:
        """Return T: magnitudes above it are clipped.

        Args:
            levels: into how many steps [0, T] will be divided.
        """


class AbsMax:
    """T is the largest magnitude seen: nothing is clipped (PaddleSlim: abs_max)."""

    def __init__(self) -> None:
        self.minimum = math.inf
        self.maximum = -math.inf

    def update(self, values: npt.NDArray[Any]) -> None:
        """See `Observer`."""
        if values.size:
            self.minimum = min(self.minimum, float(np.min(values)))
            self.maximum = max(self.maximum, float(np.max(values)))

    def merge(self, other: AbsMax) -> None:
        """See `Observer`."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def threshold(self, levels: int) -> float:
        """See `Observer`."""
        del levels
        return max(abs(self.minimum), abs(self.maximum)) if self.maximum >= self.minimum else 0.0


class KL(Histogram):
    """T minimizes the information lost (PaddleSlim: KL); see `quantization.observers.kl`."""

    def threshold(self, levels: int) -> float:
        """See `Observer`."""
        return kl_threshold(self, levels)


ALGORITHMS: dict[str, type[AbsMax] | type[KL]] = {"abs_max": AbsMax, "kl": KL}
"""Every calibration algorithm by name."""


def make_observer(algorithm: str) -> Observer:
    """Return a new observer.

    Raises:
        OptionError: there is no algorithm of that name.
    """
    if algorithm not in ALGORITHMS:
        raise OptionError(unknown_name("calibration algorithm", algorithm, ALGORITHMS))
    return ALGORITHMS[algorithm]()
