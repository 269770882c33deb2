"""Statistics of tensors that corrections need, collected while the float program runs over the samples.

Corrections learn from most batches, and are checked on the rest: every fourth batch is held back from what they learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HELD_BACK_EVERY = 4
"""Of so many batches, the last is held back."""


def is_held_back(number: int) -> bool:
    """Return whether the batch of a number, counted from 0, is one that corrections are checked on."""
    return number % HELD_BACK_EVERY == HELD_BACK_EVERY - 1


class Statistic(ABC):
    """Sees each batch of a tensor's values once. Its memory doesn't grow with the number of values.

    Class attributes:
        finite: whether it can only take in finite values.
    """

    finite: ClassVar[bool] = True

    @abstractmethod
    def update(self, values: Array) -> None:
        """Take in the tensor's values for one batch; float32, if it has to be finite."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take in what a statistic of the same class has seen."""


@dataclass(frozen=True)
class Need:
    """A statistic that a step needs.

    Attributes:
        tensor: name of a tensor of the float program.
        statistic: what to collect of its values.
        arguments: what the statistic is made with.
    """

    tensor: str
    statistic: type[Statistic]
    arguments: tuple[Any, ...] = ()

    def make(self) -> Statistic:
        """Return a new statistic."""
        return self.statistic(*self.arguments)


class ChannelMeans(Statistic):
    """The mean of each channel, the last axis, over all samples that aren't held back; float64."""

    def __init__(self) -> None:
        self._sums: Array | None = None
        self._count = self._batches = 0

    @property
    def means(self) -> Array:
        """The means [C] float64; zeros [1] if nothing was seen."""
        return np.zeros(1) if self._sums is None else self._sums / self._count

    def update(self, values: Array) -> None:
        """See `Statistic`."""
        if not is_held_back(self._batches):
            rows = values.reshape(-1, values.shape[-1])
            self._add(rows.sum(axis=0, dtype="float64"), len(rows))
        self._batches += 1

    def merge(self, other: ChannelMeans) -> None:
        """See `Statistic`."""
        if other._sums is not None:
            self._add(other._sums, other._count)
        self._batches += other._batches

    def _add(self, sums: Array, count: int) -> None:
        if count:
            self._sums = sums if self._sums is None else self._sums + sums
            self._count += count


class ChannelMaxima(Statistic):
    """The largest magnitude of each channel, the last axis; float64."""

    def __init__(self) -> None:
        self.maxima: Array = np.zeros(1)

    def update(self, values: Array) -> None:
        """See `Statistic`."""
        rows = np.abs(values.reshape(-1, values.shape[-1]))
        self.maxima = np.maximum(self.maxima, rows.max(axis=0, initial=0))

    def merge(self, other: ChannelMaxima) -> None:
        """See `Statistic`."""
        self.maxima = np.maximum(self.maxima, other.maxima)


class KeptBatches(Statistic):
    """A tensor's values for some batches, the same batches of every tensor, chosen evenly from all.

    Those batches are kept whose number has the least hash: that is an even choice, and always as many as there is room
    for. Two parts that are merged keep an even choice of what both had, which needn't be that of the whole.

    Attributes:
        limit: how many batches are kept to learn from; of those that are held back, half as many are.
    """

    finite = False

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: tuple[dict[int, Array], dict[int, Array]] = ({}, {})
        self._count = 0

    @property
    def learned_from(self) -> Sequence[Array]:
        """What the statistic keeps of the batches to learn from, in order."""
        return [value for _, value in sorted(self._kept[False].items())]

    @property
    def held_back(self) -> Sequence[Array]:
        """What it keeps of batches that are held back, in order."""
        return [value for _, value in sorted(self._kept[True].items())]

    def update(self, values: Array) -> None:
        """See `Statistic`."""
        number, held_back = self._count, is_held_back(self._count)
        self._count += 1
        if self._has_room(number, held_back):
            self._add(number, held_back, self._reduced(values))

    def merge(self, other: KeptBatches) -> None:
        """See `Statistic`."""
        for held_back in (False, True):
            for number, value in other._kept[held_back].items():
                if self._has_room(self._count + number, held_back):
                    self._add(self._count + number, held_back, value)
        self._count += other._count

    def _reduced(self, values: Array) -> Array:
        """Return what is to be kept of a batch."""
        return values

    def _room(self, held_back: bool) -> int:
        return max(1, self.limit // 2) if held_back else self.limit

    def _has_room(self, number: int, held_back: bool) -> bool:
        kept = self._kept[held_back]
        return len(kept) < self._room(held_back) or _hash(number) < max(map(_hash, kept))

    def _add(self, number: int, held_back: bool, value: Array) -> None:
        kept = self._kept[held_back]
        kept[number] = value
        if len(kept) > self._room(held_back):
            del kept[max(kept, key=_hash)]


class KeptMeans(KeptBatches):
    """The mean of each channel, the last axis, for each of the batches that `KeptBatches` keeps: [C] float64."""

    finite = True

    def _reduced(self, values: Array) -> Array:
        return batch_means(values)


def batch_means(values: Array) -> Array:
    """Return the mean of each channel, the last axis: [C] float64."""
    return np.asarray(values.reshape(-1, values.shape[-1]).mean(axis=0, dtype="float64"))


def _hash(number: int) -> int:
    """Return a number's hash (Fibonacci hashing: D. Knuth, The Art of Computer Programming, vol. 3, section 6.4)."""
    return number * 2654435769 % 2**32
