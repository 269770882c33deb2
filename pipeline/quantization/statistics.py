"""Statistics of tensors that corrections need, collected while the float program runs over the samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Statistic(ABC):
    """Sees each batch of a tensor's values once. Its memory doesn't grow with the number of values."""

    @abstractmethod
    def update(self, values: Array) -> None:
        """Take in the tensor's values for one batch: float32, finite."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take in what a statistic of the same class has seen."""


@dataclass(frozen=True)
class Need:
    """A statistic that a step needs.

    Attributes:
        tensor: name of a tensor of the float program.
        statistic: what to collect of its values.
    """

    tensor: str
    statistic: type[Statistic]


class ChannelMeans(Statistic):
    """The mean over all samples of each channel, the last axis; float64."""

    def __init__(self) -> None:
        self._sums: Array | None = None
        self._count = 0

    @property
    def means(self) -> Array:
        """The means [C] float64; zeros [1] if nothing was seen."""
        return np.zeros(1) if self._sums is None else self._sums / self._count

    def update(self, values: Array) -> None:
        """See `Statistic`."""
        rows = values.reshape(-1, values.shape[-1])
        self._add(rows.sum(axis=0, dtype="float64"), len(rows))

    def merge(self, other: ChannelMeans) -> None:
        """See `Statistic`."""
        if other._sums is not None:
            self._add(other._sums, other._count)

    def _add(self, sums: Array, count: int) -> None:
        if count:
            self._sums = sums if self._sums is None else self._sums + sums
            self._count += count
