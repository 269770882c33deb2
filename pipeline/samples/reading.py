"""Samples as they come: one after the other, from a folder or from Python, each with a name for messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Union

import numpy.typing as npt

from pipeline.errors import SampleError
from pipeline.files import StoredArray, stored_arrays

Array = npt.NDArray[Any]
Arrays = Union[Array, Sequence[Array], Mapping[str, Array]]  # noqa: UP007 - evaluated at run time on Python 3.10
"""An array, one array for each input in order, or arrays by input name."""

Sample = Union[Arrays, tuple[Arrays, Any]]  # noqa: UP007
"""One sample, without the batch axis or with it, or a whole batch; alone or with a label, which isn't used."""

Samples = Union[str, Path, Iterable[Sample], Callable[[], Iterable[Sample]]]  # noqa: UP007
"""A folder of .npy and .npz files, an iterable of samples, or a function that returns one (a sample generator)."""

SUFFIXES = (".npy", ".npz")
"""Of files that hold arrays."""


def named_samples(samples: Samples) -> Iterator[tuple[str, Any]]:
    """Yield the samples as they are, each after what a message calls it: "sample 3", "samples/0003.npy".

    Raises:
        SampleError: the folder or a file in it can't be read, or it holds no samples.
    """
    if isinstance(samples, str | Path):
        yield from _read_folder(Path(samples))
        return
    given = samples() if callable(samples) else samples
    for index, sample in enumerate([given] if isinstance(given, Mapping) else given):
        yield f"sample {index}", sample


def sample_count(samples: Samples) -> int | None:
    """Return how many samples there are; None if that isn't known before they are drawn.

    Raises:
        SampleError: the folder can't be read, or holds no samples.
    """
    if isinstance(samples, str | Path):
        return len(_files(Path(samples)))
    if isinstance(samples, Mapping):
        return 1
    return len(samples) if isinstance(samples, Sized) else None


def describe(samples: Samples) -> str:
    """Return what messages call the samples as a whole."""
    return str(samples) if isinstance(samples, str | Path) else f"the given {type(samples).__name__}"


def _read_folder(folder: Path) -> Iterator[tuple[str, StoredArray | dict[str, StoredArray]]]:
    """Yield the samples in a folder's .npy and .npz files, one for each file, sorted by name."""
    for file in _files(folder):
        yield str(file), stored_arrays(file)


def _files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's samples, sorted by name."""
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES)
    except FileNotFoundError as error:
        raise SampleError(f"Samples folder {folder} doesn't exist.") from error
    except OSError as error:
        raise SampleError(f"Samples folder {folder} can't be read: {error.strerror}.") from error
    if not files:
        raise SampleError(f"Samples folder {folder} holds no .npy or .npz files.")
    return files
