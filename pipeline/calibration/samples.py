"""Samples: whatever the user has, as a stream of feeds for one run of the program each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, SampleError
from pipeline.files import load_arrays
from pipeline.program import TensorSpec

Array = npt.NDArray[Any]
Sample = Union[Array, Sequence[Array], Mapping[str, Array]]  # noqa: UP007 - evaluated at run time on Python 3.10
"""One sample: an array, one array for each input in order, or arrays by input name; with or without the batch axis."""

Samples = Union[str, Path, Iterable[Sample], Callable[[], Iterable[Sample]]]  # noqa: UP007
"""A folder of .npy and .npz files, an iterable of samples, or a function that returns one (a sample generator)."""


def feeds(
    samples: Samples, inputs: Sequence[TensorSpec], batch_size: int | None = None, batch_nums: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield feeds for the program, one batch at a time; samples are drawn as they are needed.

    Args:
        samples: see `Samples`. A sample may have the batch axis or lack it.
        inputs: the program's inputs. Single samples are stacked to the batch that these ask for; a last batch that
            isn't full is left out.
        batch_size: how many samples the user counts as a batch; together with `batch_nums`, a limit.
        batch_nums: how many of the user's batches to use; None means all.

    Raises:
        SampleError: there is no sample, or one has a wrong name, shape, dtype or value.
        OptionError: a size is below 1.
    """
    for name, value in (("batch_size", batch_size), ("batch_nums", batch_nums)):
        if value is not None and value < 1:
            raise OptionError(f"{name} is {value}; it must be at least 1.")
    limit = None if batch_nums is None else batch_nums * (batch_size or 1)
    model_batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    pending: list[dict[str, Array]] = []
    complete = 0
    for index, sample in enumerate(islice(_stream(samples), limit)):
        feed = _as_feed(sample, inputs, index)
        if all(feed[i.name].shape == i.shape for i in inputs):
            complete += 1
            yield feed
            continue
        pending.append(feed)
        if len(pending) == model_batch:
            complete += 1
            yield {i.name: np.concatenate([p[i.name] for p in pending]) for i in inputs}
            pending = []
    if complete == 0:
        found = f"only {len(pending)} of the {model_batch} that one batch takes" if pending else "none"
        raise SampleError(f"No samples to calibrate with: {found} in {_describe(samples)}.")


def _describe(samples: Samples) -> str:
    return str(samples) if isinstance(samples, str | Path) else f"the given {type(samples).__name__}"


def _stream(samples: Samples) -> Iterable[Any]:
    if isinstance(samples, str | Path):
        return read_folder(Path(samples))
    if callable(samples):
        return samples()
    return samples


def read_folder(folder: Path) -> Iterator[Any]:
    """Yield the samples in a folder's .npy and .npz files, one for each file, sorted by name.

    Raises:
        SampleError: the folder is missing or holds no such files, or a file can't be read.
    """
    if not folder.is_dir():
        raise SampleError(f"Samples folder {folder} doesn't exist.")
    files = sorted(f for f in folder.iterdir() if f.suffix in (".npy", ".npz"))
    if not files:
        raise SampleError(f"Samples folder {folder} holds no .npy or .npz files.")
    for file in files:
        yield load_arrays(file)


def _as_feed(sample: Any, inputs: Sequence[TensorSpec], index: int) -> dict[str, Array]:
    """Return one sample as arrays by input name, each with the batch axis, after checking everything about it."""
    where = f"Sample {index}"
    if isinstance(sample, Mapping):
        arrays = dict(sample)
    elif isinstance(sample, np.ndarray) or (len(inputs) == 1 and not isinstance(sample, list | tuple)):
        arrays = {inputs[0].name: sample} if len(inputs) == 1 else {}
    else:
        arrays = dict(zip((i.name for i in inputs), sample, strict=False)) if len(sample) == len(inputs) else {}
    expected = {i.name for i in inputs}
    if set(arrays) != expected:
        given = sorted(arrays) if arrays else "arrays without names"
        raise SampleError(f"{where} holds {given}; the model's inputs are {sorted(expected)}.")
    return {spec.name: _checked(np.asarray(arrays[spec.name]), spec, where) for spec in inputs}


def _checked(value: Array, spec: TensorSpec, where: str) -> Array:
    if value.shape == spec.shape[1:] and value.shape != spec.shape:
        value = value[None]
    single = (1, *spec.shape[1:])
    if value.shape not in (spec.shape, single):
        raise SampleError(f"{where}: input {spec.name!r} has the shape {value.shape}; expected {spec.shape}.")
    if str(value.dtype) != spec.dtype:
        raise SampleError(f"{where}: input {spec.name!r} has the dtype {value.dtype}; expected {spec.dtype}.")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise SampleError(f"{where}: input {spec.name!r} holds NaN or infinity.")
    return value
