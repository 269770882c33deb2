"""Statistics of tensors that corrections need, collected while the float program runs over the samples.

Corrections learn from most batches, and are checked on the rest: every fourth batch is held back from what they learn.

Sums of floats depend on their order, so it is the same however batches are shared among processes: batches are summed
up block by block, and then the blocks in order. A part that another process collects is one block.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.compiler.calibration_loops import channel_sums

Array = npt.NDArray[Any]

HELD_BACK_EVERY = 4
"""Of so many batches, the last is held back."""

BLOCK = 16
"""Batches of a block: a multiple of `HELD_BACK_EVERY`, so that every block begins alike."""


def is_held_back(number: int) -> bool:
    """Return whether the batch of a number, counted from 0, is one that corrections are checked on."""
    return number % HELD_BACK_EVERY == HELD_BACK_EVERY - 1


class Statistic(ABC):
    """Sees each batch of a tensor's values once. Its memory doesn't grow with the number of values.

    Class attributes:
        finite: whether it can only take in finite values.
        on_all_cores: whether `update` itself runs on all cores.

    Attributes:
        first: number of the first batch that it sees, 0 unless others see those before it; a multiple of `BLOCK`.
        batches: number of the next batch, counted from the first of all.
    """

    finite: ClassVar[bool] = True
    on_all_cores: ClassVar[bool] = False

    def __init__(self, first: int = 0) -> None:
        self.first = self.batches = first

    def update(self, values: Array) -> None:
        """Take in the tensor's values for one batch; float32, if it has to be finite."""
        self._add(values)
        self._advance(self.batches + 1)

    def merge(self, other: Any) -> None:
        """Take in the next block: what a statistic of the same class and arguments has seen of it.

        The result is, to the last bit, what this statistic would be if it had seen these batches itself.

        Raises:
            ValueError: the other one has seen more than a block, or not the batches that are next.
        """
        if other.first != self.batches or other.first % BLOCK or other.batches - other.first > BLOCK:
            raise ValueError(f"Batches {other.first} to {other.batches} aren't the block after {self.batches} batches")
        self._take(other)
        self._advance(other.batches)

    def state(self) -> dict[str, Array]:
        """Return all that it has seen, as arrays of numbers, for a file or another process."""
        return {"batches": np.array([self.first, self.batches]), **self._own_state()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Become what a statistic of the same class and arguments was, whose state this is."""
        self.first, self.batches = state["batches"].tolist()
        self._restore_own(state)

    def _advance(self, batches: int) -> None:
        self.batches = batches

    @abstractmethod
    def _add(self, values: Array) -> None:
        """Take in a batch, the one of number `self.batches`."""

    @abstractmethod
    def _take(self, other: Any) -> None:
        """Take in the next block, or the beginning of it."""

    @abstractmethod
    def _own_state(self) -> dict[str, Array]:
        """Return what the class adds to the state."""

    @abstractmethod
    def _restore_own(self, state: Mapping[str, Array]) -> None:
        """Restore that."""


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

    def make(self, first: int = 0) -> Statistic:
        """Return a new statistic, of the batches from a number on."""
        make: Callable[..., Statistic] = self.statistic
        return make(*self.arguments, first=first)


class ChannelMeans(Statistic):
    """The mean of each channel, the last axis, over all samples that aren't held back; float64."""

    on_all_cores = True

    def __init__(self, first: int = 0) -> None:
        super().__init__(first)
        self._sums: Array = np.zeros(1)
        self._block: Array = np.zeros(1)
        self._count = 0

    @property
    def means(self) -> Array:
        """The means [C] float64; zeros [1] if nothing was seen."""
        return np.asarray((self._sums + self._block) / max(self._count, 1))

    def _add(self, values: Array) -> None:
        if values.size and not is_held_back(self.batches):
            self._block = self._block + channel_sums(values)
            self._count += values.size // values.shape[-1]

    def _take(self, other: ChannelMeans) -> None:
        # One of both is zero: the block is complete or it isn't.
        self._block = other._sums + other._block
        self._count += other._count

    def _advance(self, batches: int) -> None:
        super()._advance(batches)
        if batches % BLOCK == 0:
            self._sums = self._sums + self._block
            self._block = np.zeros(1)

    def _own_state(self) -> dict[str, Array]:
        return {"sums": self._sums, "block": self._block, "count": np.array(self._count)}

    def _restore_own(self, state: Mapping[str, Array]) -> None:
        self._sums, self._block, self._count = state["sums"], state["block"], int(state["count"])


class ChannelPowers(ChannelMeans):
    """The mean square of each channel, the last axis, over all samples that aren't held back; float64."""

    def _add(self, values: Array) -> None:
        super()._add(np.square(values))


class ChannelMaxima(Statistic):
    """The largest magnitude of each channel, the last axis; float64."""

    def __init__(self, first: int = 0) -> None:
        super().__init__(first)
        self.maxima: Array = np.zeros(1)

    def _add(self, values: Array) -> None:
        rows = np.abs(values.reshape(-1, values.shape[-1]))
        self.maxima = np.maximum(self.maxima, rows.max(axis=0, initial=0))

    def _take(self, other: ChannelMaxima) -> None:
        self.maxima = np.maximum(self.maxima, other.maxima)

    def _own_state(self) -> dict[str, Array]:
        return {"maxima": self.maxima}

    def _restore_own(self, state: Mapping[str, Array]) -> None:
        self.maxima = state["maxima"]


class ChannelRanges(Statistic):
    """The range of each channel, the last axis, over all samples that aren't held back, and zero; float64."""

    def __init__(self, first: int = 0) -> None:
        super().__init__(first)
        self.minima: Array = np.zeros(1)
        self.maxima: Array = np.zeros(1)

    def _add(self, values: Array) -> None:
        if is_held_back(self.batches):
            return
        rows = values.reshape(-1, values.shape[-1])
        self.minima = np.minimum(self.minima, rows.min(axis=0, initial=0))
        self.maxima = np.maximum(self.maxima, rows.max(axis=0, initial=0))

    def _take(self, other: ChannelRanges) -> None:
        self.minima = np.minimum(self.minima, other.minima)
        self.maxima = np.maximum(self.maxima, other.maxima)

    def _own_state(self) -> dict[str, Array]:
        return {"minima": self.minima, "maxima": self.maxima}

    def _restore_own(self, state: Mapping[str, Array]) -> None:
        self.minima, self.maxima = state["minima"], state["maxima"]


class KeptBatches(Statistic):
    """A tensor's values for some batches, the same batches of every tensor, chosen evenly from all.

    Those batches are kept whose number has the least hash: that is an even choice, and always as many as there is room
    for.

    Attributes:
        limit: how many batches are kept to learn from.
        held_back_limit: how many are kept of those that are held back.
    """

    finite = False

    def __init__(self, limit: int, held_back_limit: int, first: int = 0) -> None:
        super().__init__(first)
        self.limit, self.held_back_limit = limit, held_back_limit
        # Of batches before the first, others keep the values.
        self._kept: dict[bool, dict[int, Array | None]] = {
            held_back: dict.fromkeys(_least(first, held_back, self._room(held_back))) for held_back in (False, True)
        }

    @property
    def learned_from(self) -> Sequence[Array]:
        """What the statistic keeps of the batches to learn from, in order."""
        return list(self._values(held_back=False).values())

    @property
    def held_back(self) -> Sequence[Array]:
        """What it keeps of batches that are held back, in order."""
        return list(self._values(held_back=True).values())

    def _values(self, held_back: bool) -> dict[int, Array]:
        return {number: value for number, value in sorted(self._kept[held_back].items()) if value is not None}

    def _add(self, values: Array) -> None:
        kept, room = self._kept[is_held_back(self.batches)], self._room(is_held_back(self.batches))
        if len(kept) < room or (room and _hash(self.batches) < max(map(_hash, kept))):
            # Values in memory of their own, which those that take their place take as well: of other memory, that which
            # is free between what is kept grows.
            old = kept.pop(max(kept, key=_hash)) if len(kept) == room else None
            kept[self.batches] = _copied(self._reduced(values), old)

    def _take(self, other: KeptBatches) -> None:
        for held_back in (False, True):
            for number, value in other._values(held_back).items():
                self._keep(number, value)

    def _reduced(self, values: Array) -> Array:
        """Return what is to be kept of a batch."""
        return values

    def _room(self, held_back: bool) -> int:
        return self.held_back_limit if held_back else self.limit

    def _keep(self, number: int, value: Array) -> None:
        kept = self._kept[is_held_back(number)]
        kept[number] = value
        if len(kept) > self._room(is_held_back(number)):
            del kept[max(kept, key=_hash)]

    def _own_state(self) -> dict[str, Array]:
        return {f"batch {n}": v for held_back in (False, True) for n, v in self._values(held_back).items()}

    def _restore_own(self, state: Mapping[str, Array]) -> None:
        self._kept = {h: dict.fromkeys(_least(self.first, h, self._room(h))) for h in (False, True)}
        for key, value in state.items():
            word, _, number = key.partition(" ")
            if word == "batch":
                self._keep(int(number), value)


def _copied(values: Array, memory: Array | None) -> Array:
    """Return a copy of values, in memory that is given if it is of their shape and type."""
    if memory is None or (memory.shape, memory.dtype) != (values.shape, values.dtype):
        return np.array(values)
    memory[...] = values
    return memory


class KeptMeans(KeptBatches):
    """The mean of each channel, the last axis, for each of the batches that `KeptBatches` keeps: [C] float64."""

    finite = True
    on_all_cores = True

    def _reduced(self, values: Array) -> Array:
        return batch_means(values)


def batch_means(values: Array) -> Array:
    """Return the mean of each channel, the last axis: [C] float64."""
    if values.dtype == "float32":
        return np.asarray(channel_sums(values) / (values.size // values.shape[-1]))
    return np.asarray(values.reshape(-1, values.shape[-1]).mean(axis=0, dtype="float64"))


@functools.lru_cache(maxsize=64)
def _least(count: int, held_back: bool, room: int) -> tuple[int, ...]:
    """Return which of so many batches `KeptBatches` keeps."""
    return tuple(sorted((n for n in range(count) if is_held_back(n) is held_back), key=_hash)[:room])


def _hash(number: int) -> int:
    """Return a number's hash (Fibonacci hashing: D. Knuth, The Art of Computer Programming, vol. 3, section 6.4)."""
    return number * 2654435769 % 2**32
