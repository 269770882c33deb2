"""Keeps what calibration has seen in a file, so that a run that was interrupted goes on where it was.

The file holds the states of all observers and statistics, and what they were collected from. It isn't trusted: sizes
are checked before memory is allocated, and a state of another model, of other samples or options is refused. A run that
goes on reads the samples that were seen already, to see that they are the same, but doesn't run the model on them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError
from pipeline.files import arrays_digest, write_bytes
from pipeline.quantization.observers import Observer
from pipeline.quantization.statistics import Statistic
from pipeline.samples.statistics import SampleStatistics
from pipeline.schema import Record

Array = npt.NDArray[Any]

MAX_BYTES = 2**31
"""Largest size of a file that is read."""

SECONDS_BETWEEN_SAVES = 10.0
"""A file is written at most so often, as it may hold a hundred megabytes."""

_KINDS = "biufU"
"""Kinds of values that arrays of a state may have: numbers and text."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class StoredArray(Record, frozen=True):
    """An array of numbers or text."""

    dtype: str
    shape: tuple[_Count, ...]
    data: bytes

    @classmethod
    def of(cls, array: Array) -> StoredArray:
        """Return an array as it is stored."""
        return cls(dtype=array.dtype.str, shape=array.shape, data=array.tobytes())

    def array(self) -> Array:
        """Return the array.

        Raises:
            ValueError: the size isn't that of the shape and type, or the type isn't one of numbers or text.
            TypeError: there is no such type.
        """
        dtype = np.dtype(self.dtype)
        if dtype.kind not in _KINDS or math.prod(self.shape) * dtype.itemsize != len(self.data):
            raise ValueError(f"{len(self.data)} bytes aren't {self.dtype} of the shape {self.shape}")
        return np.frombuffer(self.data, dtype).reshape(self.shape).copy()


Arrays = dict[str, StoredArray]


class SampleCounts(Record, frozen=True):
    """What was counted of the samples: the attributes of `SampleStatistics` with these names."""

    samples: _Count
    constant: _Count
    first_constant: str
    same: bool
    first: bytes

    @classmethod
    def of(cls, statistics: SampleStatistics) -> SampleCounts:
        """Return what statistics have counted."""
        return cls(**{name: getattr(statistics, name) for name in cls.__struct_fields__})

    def restore(self, statistics: SampleStatistics) -> None:
        """Let statistics go on from here."""
        for name in self.__struct_fields__:
            setattr(statistics, name, getattr(self, name))


class CalibrationState(Record, frozen=True):
    """What a file holds.

    Attributes:
        made_from: what of, by names of parts: see `Resumption`.
        batches: how many batches were seen.
        seen: SHA-256 of the batches seen: of that of all but the last, and of the last one's.
        samples: what was counted of the samples.
        first_feeds: the first batches.
        states: of observers and statistics, in order.
    """

    made_from: dict[str, str]
    batches: _Count
    seen: bytes
    samples: SampleCounts
    first_feeds: tuple[Arrays, ...]
    states: tuple[Arrays, ...]


class Resumption:
    """A pass over samples that can be interrupted.

    Attributes:
        batches: how many batches were seen.
        statistics: of the samples seen.
        first_feeds: the first batches that were seen.

    Args:
        path: the file; if it exists, the pass goes on from there.
        made_from: what determines the states: the model, what observes it, and the options, each as text, by names for
            messages.
        watchers: the observers and statistics, which have seen nothing; they become what they were.
        statistics: of the samples, which have seen nothing.

    Raises:
        OptionError: the file can't be read, is damaged, or was made from something else.
    """

    def __init__(
        self,
        path: Path,
        made_from: Mapping[str, str],
        watchers: Sequence[Observer | Statistic],
        statistics: SampleStatistics,
    ) -> None:
        self.path, self.statistics, self.batches = path, statistics, 0
        self.first_feeds: list[Mapping[str, Array]] = []
        self._made_from, self._watchers = dict(made_from), watchers
        self._seen, self._saved = b"", time.monotonic()
        if path.exists():
            self._restore(_read(path))

    def remaining(self, stream: Iterator[tuple[str, dict[str, Array]]]) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yield the batches that weren't seen.

        Args:
            stream: all batches, each after its name.

        Raises:
            OptionError: those that were seen aren't the first ones of these.
        """
        seen = b""
        for number in range(self.batches):
            name, feed = next(stream, ("", None))
            if feed is None:
                raise OptionError(
                    f"The state {self.path} is of {self.batches} batches, and there are only {number} now. "
                    f"{self._advice}"
                )
            seen = _chained(seen, feed)
            if number == self.batches - 1 and seen != self._seen:
                raise OptionError(f"The state {self.path} is of other samples than those up to {name}. {self._advice}")
        yield from stream

    def note(self, feed: Mapping[str, Array]) -> None:
        """Take note of a batch that all have seen, and write the file if that was a while ago."""
        self.batches += 1
        self._seen = _chained(self._seen, feed)
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            OptionError: it can't be written.
        """
        state = CalibrationState(
            made_from=self._made_from,
            batches=self.batches,
            seen=self._seen,
            samples=SampleCounts.of(self.statistics),
            first_feeds=tuple(_stored(feed) for feed in self.first_feeds),
            states=tuple(_stored(watcher.state()) for watcher in self._watchers),
        )
        write_bytes(self.path, msgspec.msgpack.encode(state))
        self._saved = time.monotonic()

    def _restore(self, state: CalibrationState) -> None:
        differing = [name for name, text in self._made_from.items() if state.made_from.get(name) != text]
        if differing:
            raise OptionError(f"The state {self.path} was made with another {' and '.join(differing)}. {self._advice}")
        try:
            for watcher, own in zip(self._watchers, state.states, strict=True):
                watcher.restore(_arrays(own))
            self.first_feeds = [_arrays(feed) for feed in state.first_feeds]
        except (ValueError, TypeError, KeyError) as problem:
            raise OptionError(f"The state {self.path} is damaged: {problem}. {self._advice}") from problem
        self.batches, self._seen = state.batches, state.seen
        state.samples.restore(self.statistics)

    @property
    def _advice(self) -> str:
        return "Delete it to begin anew, or name another file: --resume."


def _read(path: Path) -> CalibrationState:
    """Return a file's content.

    Raises:
        OptionError: it can't be read, or isn't a state.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OptionError(f"The state {path} has more than {MAX_BYTES} bytes.")
        return msgspec.msgpack.decode(path.read_bytes(), type=CalibrationState)
    except OSError as error:
        raise OptionError(f"The state {path} can't be read: {error.strerror}.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise OptionError(f"{path} isn't the state of a calibration: {error}.") from error


def _chained(before: bytes, feed: Mapping[str, Array]) -> bytes:
    return hashlib.sha256(before + arrays_digest(feed)).digest()


def _stored(arrays: Mapping[str, Array]) -> Arrays:
    return {name: StoredArray.of(np.asarray(array)) for name, array in arrays.items()}


def _arrays(stored: Arrays) -> dict[str, Array]:
    return {name: array.array() for name, array in stored.items()}


def text_digest(parts: Iterable[object]) -> str:
    """Return the SHA-256 of texts that describe something."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
