"""Reads samples one after the other, from a folder or from Python, and gives each a name for messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy.typing as npt

from pipeline.config.options import ImageOptions
from pipeline.errors import OptionError, SampleError
from pipeline.files import StoredArray, stored_arrays
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import TensorSpec
from pipeline.samples.images import Images, is_picture, preprocess, resolve_preprocessing

Array = npt.NDArray[Any]
Arrays = Union[Array, Sequence[Array], Mapping[str, Array]]  # noqa: UP007 - evaluated at run time on Python 3.10
"""An array, one array for each input in order, or arrays by input name."""

Sample = Union[Arrays, tuple[Arrays, Any]]  # noqa: UP007
"""One sample, with or without the batch axis, or a batch of samples. A label may come with it, and isn't used."""

Samples = Union[str, Path, Images, Iterable[Sample], Callable[[], Iterable[Sample]]]  # noqa: UP007
"""A folder of .npy and .npz files and pictures, an iterable of samples, or a function that returns one (a sample
generator)."""


@dataclass(frozen=True)
class Files:
    """Some of a folder's files.

    Attributes:
        paths: of the files, in order.
        preprocessing: how pictures among them become the model's input; None if there are none.
    """

    paths: tuple[Path, ...]
    preprocessing: ImagePreprocessing | None = None


SUFFIXES = (".npy", ".npz")
"""Suffixes of files that contain arrays."""


def named_samples(samples: Samples | Files, inputs: Sequence[TensorSpec]) -> Iterator[tuple[str, Any]]:
    """Yield (name, sample), without checking the samples; names are for messages: "sample 3", "samples/0003.npy".

    Args:
        samples: see `Samples`.
        inputs: the model's inputs. Pictures become arrays, if there is only one input.

    Raises:
        SampleError: the folder or a file in it can't be read, there are no samples in it, or `samples` isn't iterable.
        OptionError: pictures can't become the model's input, or not with these options.
    """
    if isinstance(samples, str | Path | Images):
        files = sample_files(folder_of(samples))
        samples = Files(tuple(files), _preprocessing(samples, files, inputs))
    if isinstance(samples, Files):
        yield from _read(samples, inputs)
        return
    given = samples() if callable(samples) else samples
    if not isinstance(given, Iterable):
        raise SampleError(
            f"Samples are {given!r}. Expected a folder, an iterable of arrays, or a function that returns one."
        )
    for index, sample in enumerate([given] if isinstance(given, Mapping) else given):
        yield f"sample {index}", sample


def preprocessing_of(samples: Samples | None, inputs: Sequence[TensorSpec]) -> ImagePreprocessing | None:
    """Return how pictures among the samples become the model's input; None if there are no pictures.

    Raises:
        SampleError, OptionError: see `named_samples`.
    """
    if not isinstance(samples, str | Path | Images):
        return None
    return _preprocessing(samples, sample_files(folder_of(samples)), inputs)


def sample_files(folder: Path) -> list[Path]:
    """Return the files in a folder that contain arrays or pictures, sorted by name.

    If there are none in the folder itself, those in its subfolders are returned. The path of a single such file is
    accepted in place of a folder.

    Raises:
        SampleError: there are no such files, or the folder can't be read.
    """
    if folder.is_file() and _is_sample(folder):
        return [folder]
    try:
        files = sorted(f for f in folder.iterdir() if _is_sample(f))
        files = files or sorted(f for f in folder.glob("*/*") if _is_sample(f))
    except FileNotFoundError as error:
        raise SampleError(f"Samples folder {folder} doesn't exist.") from error
    except OSError as error:
        raise SampleError(f"Samples folder {folder} can't be read: {error.strerror}.") from error
    if not files:
        raise SampleError(f"Samples folder {folder} holds no .npy or .npz files, and no pictures (.jpg, .png, ...).")
    return files


def folder_of(samples: str | Path | Images) -> Path:
    """Return the path of the folder, or of the single file, that contains the samples."""
    return Path(samples.folder if isinstance(samples, Images) else samples)


def sample_count(samples: Samples) -> int | None:
    """Return how many samples there are; None if that isn't known before they are read.

    Raises:
        SampleError: the folder can't be read, or contains no samples.
    """
    if isinstance(samples, str | Path | Images):
        return len(sample_files(folder_of(samples)))
    if isinstance(samples, Mapping):
        return 1
    return len(samples) if isinstance(samples, Sized) else None


def with_image_options(samples: Samples | None, options: ImageOptions) -> Samples | None:
    """Return the samples; if they are in a folder, with the options for pictures in it.

    Raises:
        OptionError: there are options for pictures, but the samples are given by Python, as arrays.
    """
    if isinstance(samples, str | Path):
        return Images(samples, options)
    if options != ImageOptions() and not isinstance(samples, Images | None):
        raise OptionError("Options for pictures are for a folder of them; these samples are arrays already.")
    return samples


def describe(samples: Samples | Files) -> str:
    """Return the name that messages have for all the samples: the folder, or "the given list"."""
    if isinstance(samples, str | Path | Images):
        return str(folder_of(samples))
    return f"the given {type(samples).__name__}"


def _read(
    files: Files, inputs: Sequence[TensorSpec]
) -> Iterator[tuple[str, StoredArray | dict[str, StoredArray] | Array]]:
    """Yield (name, sample) for each file."""
    for file in files.paths:
        if files.preprocessing is not None and is_picture(file):
            yield str(file), preprocess(file, files.preprocessing, inputs[0].dtype)
        else:
            yield str(file), stored_arrays(file)


def _preprocessing(
    samples: str | Path | Images, files: Sequence[Path], inputs: Sequence[TensorSpec]
) -> ImagePreprocessing | None:
    options = samples.options if isinstance(samples, Images) else ImageOptions()
    if not any(map(is_picture, files)):
        if options != ImageOptions():
            raise OptionError(f"{folder_of(samples)} holds no pictures; leave the options for pictures out.")
        return None
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs)
        raise SampleError(
            f"{folder_of(samples)} holds pictures, but the model has {len(inputs)} inputs: {names}. Give .npz files "
            "that hold an array for each."
        )
    return resolve_preprocessing(options, inputs[0])


def _is_sample(file: Path) -> bool:
    return file.suffix in SUFFIXES or is_picture(file)
