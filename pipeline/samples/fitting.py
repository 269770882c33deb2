"""Fits samples to a model's inputs: finds their arrays, checks and converts them, and splits batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.conversion import ConversionError, convert, may_convert
from pipeline.errors import SampleError
from pipeline.files import StoredArray
from pipeline.ir.program import TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FittedSample:
    """One sample, checked and converted.

    Attributes:
        name: its name in messages.
        feed: an array for each input, by name.
        single: names of the inputs for which the sample has one element along the batch axis, and the model takes more.
        batch: how many such samples make a batch for the model; 1 if the sample is a whole batch.
    """

    name: str
    feed: dict[str, Array]
    single: frozenset[str]
    batch: int


@dataclass
class SampleFitter:
    """Fits samples to a model's inputs.

    Attributes:
        inputs: the model's inputs.
        first: name of the first sample that fitted; "" as long as there was none.
        shapes: shapes of that sample's arrays, by input name, as they were given.
    """

    inputs: Sequence[TensorSpec]
    first: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def fit(self, sample: Any, name: str) -> Iterator[FittedSample]:
        """Yield the sample or, if it is a batch that the model doesn't take as a whole, the samples in it.

        Shapes and dtypes are checked before any values are read.

        Raises:
            SampleError: it has a wrong name, shape, dtype or value.
        """
        arrays = arrays_of(sample, self.inputs, name)
        for spec in self.inputs:
            self._check(arrays[spec.name], spec, name)
        if not self.first:
            self.first, self.shapes = name, {n: array.shape for n, array in arrays.items()}
        values = {spec.name: _loaded(arrays[spec.name], spec) for spec in self.inputs}
        counts = {n: s.name for s in self.inputs if (n := _count(values[s.name].shape, s)) is not None}
        if len(counts) > 1:
            listed = ", ".join(f"{n!r} holds {count}" for count, n in counts.items())
            raise SampleError(f"{capitalized(name)} is a batch, but not of one size: {listed}.")
        if not counts:
            yield self._fitted(values, name)
            return
        for i in range(next(iter(counts))):
            part = {s.name: v[i : i + 1] if _count((v := values[s.name]).shape, s) else v for s in self.inputs}
            yield self._fitted(part, f"{name}[{i}]")

    def batch(self, sample: Any, name: str) -> int | None:
        """Return how many samples like this one make a batch for the model; None if it is several samples itself.

        Values aren't read.

        Raises:
            SampleError: it has a wrong name, shape or dtype.
        """
        arrays = arrays_of(sample, self.inputs, name)
        for spec in self.inputs:
            self._check(arrays[spec.name], spec, name)
        shapes = {spec.name: _with_batch_axis(arrays[spec.name].shape, spec) for spec in self.inputs}
        if any(_count(shapes[spec.name], spec) is not None for spec in self.inputs):
            return None
        return next((spec.shape[0] for spec in self.inputs if shapes[spec.name] != spec.shape), 1)

    def _fitted(self, arrays: dict[str, Array], name: str) -> FittedSample:
        feed = {spec.name: _converted(arrays[spec.name], spec, name) for spec in self.inputs}
        single = frozenset(spec.name for spec in self.inputs if feed[spec.name].shape != spec.shape)
        batches = {spec.shape[0]: spec.name for spec in self.inputs if spec.name in single}
        if len(batches) > 1:
            listed = ", ".join(f"{n!r} takes {size}" for size, n in batches.items())
            raise SampleError(
                f"{capitalized(name)} is a single one, but the model's inputs don't have one batch size: {listed}. "
                "Give samples that are whole batches."
            )
        return FittedSample(name, feed, single, next(iter(batches), 1))

    def _check(self, array: Array | StoredArray, spec: TensorSpec, name: str) -> None:
        """Check the shape and dtype of one array of a sample, without reading values from a file."""
        rows = spec.shape[1:]
        whole = len(array.shape) == len(spec.shape) and array.shape[1:] == rows and 0 not in array.shape[:1]
        if array.shape != spec.shape and not (spec.shape and (whole or array.shape == rows)):
            raise SampleError(
                f"{capitalized(name)}: input {spec.name!r} has the shape {array.shape}; expected {spec.shape}."
                f"{_shape_advice(array.shape, spec)}{self._difference_from_first(array.shape, spec)}"
            )
        if not may_convert(array.dtype, np.dtype(spec.dtype)):
            advice = f" Convert it: array.astype({spec.dtype!r})." if array.dtype.kind in "biuf" else ""
            raise SampleError(
                f"{capitalized(name)}: input {spec.name!r} has the dtype {array.dtype}; expected {spec.dtype}.{advice}"
            )

    def _difference_from_first(self, shape: tuple[int, ...], spec: TensorSpec) -> str:
        """Return the sentence of an error message that compares a wrong shape with the first sample's; "" if equal."""
        first = self.shapes.get(spec.name, shape)
        return f" The first one, {self.first}, has {first}: all must be alike." if first != shape else ""


def arrays_of(sample: Any, inputs: Sequence[TensorSpec], name: str) -> dict[str, Array | StoredArray]:
    """Return a sample's arrays by input name, without checking shapes and dtypes. A label beside them is left out.

    Args:
        sample: see `samples.Sample`.
        inputs: the model's inputs; only their names are used.
        name: the sample's name in messages.

    Raises:
        SampleError: the sample doesn't consist of one array for each input.
    """
    expected = [i.name for i in inputs]
    arrays = _by_name(sample, expected)
    if arrays.keys() != set(expected):
        given = sorted(map(str, arrays)) if arrays else f"{_size(sample)} without names"
        others = sorted(str(key) for key in arrays.keys() - set(expected))
        advice = (
            f"Leave {', '.join(map(repr, others))} out."
            if arrays.keys() > set(expected)
            else f"Name the arrays after the inputs, as np.savez(file, **{{{min(expected)!r}: array}}) does."
        )
        raise SampleError(f"{capitalized(name)} holds {given}; the model's inputs are {sorted(expected)}. {advice}")
    return {n: _as_array(a, n, name) for n, a in arrays.items()}


def _size(sample: Any) -> str:
    return f"{len(sample)} arrays" if isinstance(sample, list | tuple) else "an array"


def capitalized(name: str) -> str:
    """Return a sample's name as the first words of a sentence: "Sample 3", "Sample folder/0003.npy"."""
    return name.capitalize() if name.startswith("sample ") else f"Sample {name}"


def _by_name(sample: Any, inputs: Sequence[str]) -> dict[str, Any]:
    """Return a sample's arrays by input name; an empty dictionary if it isn't clear which array is which."""
    if isinstance(sample, Mapping):
        return dict(sample)
    if not isinstance(sample, list | tuple):
        single = len(inputs) == 1 or not isinstance(sample, Sequence)
        return {inputs[0]: sample} if len(inputs) == 1 and single else {}
    if len(sample) == 2 and _holds_inputs(sample[0], inputs):
        return _by_name(sample[0], inputs)
    if isinstance(sample, list) and sample and all(isinstance(s, tuple) and len(s) == len(sample[0]) for s in sample):
        # A batch as `paddle.batch` yields it: a list of samples.
        return _by_name(tuple(list(column) for column in zip(*sample, strict=True)), inputs)
    # If there is one value more than the model has inputs, the last one is a label.
    return dict(zip(inputs, sample, strict=False)) if len(sample) in (len(inputs), len(inputs) + 1) else {}


def _holds_inputs(value: Any, inputs: Sequence[str]) -> bool:
    """Return whether the first of two values contains all inputs, so that the second one is a label."""
    if isinstance(value, list | tuple):
        return len(value) == len(inputs) and all(hasattr(v, "shape") for v in value)
    return isinstance(value, Mapping)


def _as_array(value: Any, spec: str, name: str) -> Array | StoredArray:
    if isinstance(value, StoredArray):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"{capitalized(name)}: input {spec!r} can't be read as an array: {error}.") from error
    if array.dtype.kind not in "biufcV":
        raise SampleError(f"{capitalized(name)}: input {spec!r} is {value!r:.100}; expected an array of numbers.")
    return array


def _loaded(array: Array | StoredArray, spec: TensorSpec) -> Array:
    """Return an array with its values read, and with the batch axis."""
    value = array.load() if isinstance(array, StoredArray) else array
    return value.reshape(_with_batch_axis(value.shape, spec))


def _with_batch_axis(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    return (1, *shape) if spec.shape and shape == spec.shape[1:] else shape


def _converted(value: Array, spec: TensorSpec, name: str) -> Array:
    """Return values in the input's dtype."""
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise SampleError(f"{capitalized(name)}: input {spec.name!r} holds NaN or infinity.")
    try:
        return convert(value, np.dtype(spec.dtype))
    except ConversionError as error:
        raise SampleError(f"{capitalized(name)}: input {spec.name!r} {error}.") from error


def _count(shape: tuple[int, ...], spec: TensorSpec) -> int | None:
    """Return how many samples an array contains; None if it is a single sample, or as large as the model's batch."""
    return None if shape == spec.shape or shape[0] == 1 else shape[0]


def _shape_advice(shape: tuple[int, ...], spec: TensorSpec) -> str:
    rows, whole = spec.shape[1:], len(shape) == len(spec.shape)
    inner = shape[1:] if whole else shape
    if len(rows) == 3 and len(inner) == 3:
        for given, wanted, order in (("NHWC", "NCHW", (2, 0, 1)), ("NCHW", "NHWC", (1, 2, 0))):
            if tuple(inner[axis] for axis in order) == rows:
                axes = (0, *(axis + 1 for axis in order)) if whole else order
                return f" It looks like {given}, the model takes {wanted}: array.transpose{axes}."
    return ""
