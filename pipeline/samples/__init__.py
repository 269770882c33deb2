"""Samples: whatever the user has, as a stream of feeds for one run of the program each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, SampleError
from pipeline.files import StoredArray, stored_arrays
from pipeline.ir.program import TensorSpec

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
            isn't full is left out. Inputs without a batch axis, which every sample holds whole, must be equal in all
            samples of a batch.
        batch_size: how many samples the user counts as a batch; together with `batch_nums`, a limit.
        batch_nums: how many of the user's batches to use; None means all.

    Raises:
        SampleError: there is no sample, or one has a wrong name, shape, dtype or value.
        OptionError: a size is below 1.
    """
    for _, feed in named_feeds(samples, inputs, batch_size, batch_nums):
        yield feed


def named_feeds(
    samples: Samples, inputs: Sequence[TensorSpec], batch_size: int | None = None, batch_nums: int | None = None
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield feeds as `feeds` does, each after what a message calls it: "sample 3", "samples/0003.npy"."""
    for name, value in (("batch_size", batch_size), ("batch_nums", batch_nums)):
        if value is not None and value < 1:
            raise OptionError(f"{name} is {value}; it must be at least 1.")
    limit = None if batch_nums is None else batch_nums * (batch_size or 1)
    pending: list[_Checked] = []
    complete = 0
    for name, sample in islice(_stream(samples), limit):
        checked = _checked(sample, inputs, name)
        pending.append(checked)
        if len(pending) == checked.batch:
            complete += 1
            yield _title(pending), _stacked(pending, inputs)
            pending = []
    if complete == 0:
        found = f"only {len(pending)} of the {pending[0].batch} that one batch takes" if pending else "none"
        raise SampleError(f"No samples to calibrate with: {found} in {_describe(samples)}.")


def batch_of(inputs: Sequence[TensorSpec]) -> int:
    """Return how many samples a program takes at once: the first dimension of its input with the most dimensions."""
    shape = max((i.shape for i in inputs), key=len, default=())
    return shape[0] if shape else 1


def _describe(samples: Samples) -> str:
    return str(samples) if isinstance(samples, str | Path) else f"the given {type(samples).__name__}"


def _stream(samples: Samples) -> Iterator[tuple[str, Any]]:
    if isinstance(samples, str | Path):
        yield from _read_folder(Path(samples))
        return
    for index, sample in enumerate(samples() if callable(samples) else samples):
        yield f"sample {index}", sample


def _read_folder(folder: Path) -> Iterator[tuple[str, StoredArray | dict[str, StoredArray]]]:
    """Yield the samples in a folder's .npy and .npz files, one for each file, sorted by name.

    Raises:
        SampleError: the folder or a file in it can't be read, or it holds no such files.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix in (".npy", ".npz"))
    except FileNotFoundError as error:
        raise SampleError(f"Samples folder {folder} doesn't exist.") from error
    except OSError as error:
        raise SampleError(f"Samples folder {folder} can't be read: {error.strerror}.") from error
    if not files:
        raise SampleError(f"Samples folder {folder} holds no .npy or .npz files.")
    for file in files:
        yield str(file), stored_arrays(file)


@dataclass(frozen=True)
class _Checked:
    """One sample that fits the model.

    Attributes:
        name: for messages.
        feed: an array for each input.
        single: the inputs of which this is one image, row or so of a batch.
        batch: how many such samples make a batch; 1 if the sample is a whole one.
    """

    name: str
    feed: dict[str, Array]
    single: frozenset[str]
    batch: int


def _title(batch: Sequence[_Checked]) -> str:
    return batch[0].name if len(batch) == 1 else f"{batch[0].name} to {batch[-1].name}"


def _stacked(batch: Sequence[_Checked], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    first = batch[0]
    if len(batch) == 1:
        return first.feed
    for other in batch[1:]:
        for spec in inputs:
            if (spec.name in other.single) != (spec.name in first.single):
                raise SampleError(
                    f"{_sentence(first.name)} and {other.name} go into one batch, but input {spec.name!r} has the "
                    f"shapes {first.feed[spec.name].shape} and {other.feed[spec.name].shape}."
                )
            if spec.name not in first.single and not np.array_equal(other.feed[spec.name], first.feed[spec.name]):
                raise SampleError(
                    f"{_sentence(first.name)} and {other.name} go into one batch of {first.batch}, but hold different "
                    f"values for input {spec.name!r}, which the whole batch shares: its shape is {spec.shape}. Give "
                    "samples that are whole batches, or build for a batch of 1."
                )
    return {
        spec.name: np.concatenate([b.feed[spec.name] for b in batch])
        if spec.name in first.single
        else first.feed[spec.name]
        for spec in inputs
    }


def _checked(sample: Any, inputs: Sequence[TensorSpec], name: str) -> _Checked:
    """Return one sample as arrays by input name, after checking everything about it; shapes before values."""
    arrays = _by_name(sample, inputs, name)
    for spec in inputs:
        _check_array(arrays[spec.name], spec, name)
    feed = {spec.name: _values(arrays[spec.name], spec, name) for spec in inputs}
    single = frozenset(spec.name for spec in inputs if feed[spec.name].shape != spec.shape)
    batches = {spec.shape[0]: spec.name for spec in inputs if spec.name in single}
    if len(batches) > 1:
        listed = ", ".join(f"{n!r} takes {size}" for size, n in batches.items())
        raise SampleError(
            f"{_sentence(name)} is a single one, but the model's inputs don't have one batch size: {listed}. "
            "Give samples that are whole batches."
        )
    return _Checked(name, feed, single, next(iter(batches), 1))


def _by_name(sample: Any, inputs: Sequence[TensorSpec], name: str) -> dict[str, Any]:
    if isinstance(sample, Mapping):
        arrays = dict(sample)
    elif isinstance(sample, np.ndarray | StoredArray) or (len(inputs) == 1 and not isinstance(sample, list | tuple)):
        arrays = {inputs[0].name: sample} if len(inputs) == 1 else {}
    else:
        arrays = dict(zip((i.name for i in inputs), sample, strict=False)) if len(sample) == len(inputs) else {}
    expected = sorted(i.name for i in inputs)
    if arrays.keys() != set(expected):
        given = sorted(map(str, arrays)) if arrays else "arrays without names"
        raise SampleError(
            f"{_sentence(name)} holds {given}; the model's inputs are {expected}. Name the arrays after the inputs, "
            f"as np.savez(file, **{{{expected[0]!r}: array}}) does."
        )
    return {n: a if isinstance(a, StoredArray) else np.asarray(a) for n, a in arrays.items()}


def _values(array: Array | StoredArray, spec: TensorSpec, name: str) -> Array:
    value = array.load() if isinstance(array, StoredArray) else array
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise SampleError(f"{_sentence(name)}: input {spec.name!r} holds NaN or infinity.")
    return value[None] if spec.shape and value.shape == spec.shape[1:] else value


def _check_array(array: Array | StoredArray, spec: TensorSpec, name: str) -> None:
    """Check the shape and dtype of one array of a sample.

    Args:
        array: the array; of a stored one, no values are read.
        spec: the input that it is for.
        name: the sample, for messages.

    Raises:
        SampleError: it doesn't fit; the message says what to do about the usual mistakes.
    """
    rows = spec.shape[1:]
    if array.shape not in ({spec.shape, rows, (1, *rows)} if spec.shape else {()}):
        raise SampleError(
            f"{_sentence(name)}: input {spec.name!r} has the shape {array.shape}; expected {spec.shape}."
            f"{_shape_advice(array.shape, spec)}"
        )
    if array.dtype != np.dtype(spec.dtype):
        raise SampleError(
            f"{_sentence(name)}: input {spec.name!r} has the dtype {array.dtype}; expected {spec.dtype}."
            f"{_dtype_advice(array.dtype, spec)}"
        )


def _shape_advice(shape: tuple[int, ...], spec: TensorSpec) -> str:
    rows, whole = spec.shape[1:], len(shape) == len(spec.shape)
    if whole and shape[1:] == rows:
        return f" It holds {shape[0]} samples; give each as a sample of its own, one file for each."
    inner = shape[1:] if whole else shape
    if len(rows) == 3 and len(inner) == 3:
        for given, wanted, order in (("NHWC", "NCHW", (2, 0, 1)), ("NCHW", "NHWC", (1, 2, 0))):
            if tuple(inner[axis] for axis in order) == rows:
                axes = (0, *(axis + 1 for axis in order)) if whole else order
                return f" It looks like {given}, the model takes {wanted}: array.transpose{axes}."
    return ""


def _dtype_advice(dtype: np.dtype[Any], spec: TensorSpec) -> str:
    wanted = np.dtype(spec.dtype)
    if dtype.kind not in "biuf" or (dtype.kind == "f" and wanted.kind in "iu"):
        return ""
    advice = f" Convert it: array.astype({spec.dtype!r})"
    if dtype == np.uint8 and wanted.kind == "f":
        return advice + ", scaled and shifted as the pictures were that the model was trained on."
    return advice + "."


def _sentence(name: str) -> str:
    """Return a sample's name as a sentence begins with it."""
    return name.capitalize() if name.startswith("sample ") else f"Sample {name}"
