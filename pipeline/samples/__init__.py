"""Samples: turns what the user has into feeds, each a dictionary of arrays by input name for one run of the program."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError, SampleError
from pipeline.ir.program import TensorSpec
from pipeline.samples.fitting import FittedSample, SampleFitter, capitalized
from pipeline.samples.images import Images
from pipeline.samples.reading import (
    Files,
    Sample,
    Samples,
    describe,
    named_samples,
    preprocessing_of,
    sample_count,
    with_image_options,
)

__all__ = [
    "Images",
    "Sample",
    "Samples",
    "batch_of",
    "feed_count",
    "feeds",
    "hold_back_filter",
    "named_feeds",
    "preprocessing_of",
    "warn_of_rest",
    "with_image_options",
]

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

FeedFilter = Callable[[int], bool]
"""Says of a feed, by its number from 0 on, whether it is wanted."""


def feeds(
    samples: Samples, inputs: Sequence[TensorSpec], batch_size: int | None = None, batch_nums: int | None = None
) -> Iterator[dict[str, Array]]:
    """Yield feeds for the program, one batch at a time. Samples are read when they are needed.

    Args:
        samples: see `Samples`. A sample may have the batch axis or not, or be a batch of any size. Values of another
            dtype are converted unless information would be lost; see `conversion`.
        inputs: the program's inputs. Single samples are joined into batches of the size that these have; samples at the
            end that don't fill a batch are left out. Inputs without a batch axis must be equal in all samples of a
            batch.
        batch_size: how many samples `batch_nums` counts as one batch; 1 if None. It doesn't change the size of feeds.
        batch_nums: how many of these batches to use; None means all. A sample that is a batch itself counts as one.

    Raises:
        SampleError: there is no sample, or one has a wrong name, shape, dtype or value.
        OptionError: `batch_size` or `batch_nums` is below 1.
    """
    for _, feed in named_feeds(samples, inputs, batch_size, batch_nums):
        yield feed


def named_feeds(
    samples: Samples | Files,
    inputs: Sequence[TensorSpec],
    batch_size: int | None = None,
    batch_nums: int | None = None,
    part: FeedFilter | None = None,
    warn: bool = False,
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield (name, feed) for the feeds that `feeds` yields; names are for messages: "sample 3", "samples/0003.npy".

    Args:
        samples: see `feeds`.
        inputs: see `feeds`.
        batch_size: see `feeds`.
        batch_nums: see `feeds`.
        part: says which feeds to yield; None means all.
        warn: whether to log a warning if samples at the end are left out because they don't fill a batch.
    """
    for name, value in (("batch_size", batch_size), ("batch_nums", batch_nums)):
        if value is not None and value < 1:
            raise OptionError(f"{name} is {value}; it must be at least 1.")
    pending: list[FittedSample] = []
    complete = left_out = 0
    for fitted in _fitted(samples, inputs, batch_size or 1, batch_nums):
        pending.append(fitted)
        if len(pending) == fitted.batch:
            if part is None or part(complete + left_out):
                complete += 1
                yield _title(pending), _stacked(pending, inputs)
            else:
                left_out += 1
            pending = []
    if warn and pending and complete:
        warn_of_rest(len(pending), pending[0].batch, samples)
    if complete == 0:
        if left_out:
            raise SampleError(
                f"None of the {left_out} samples in {describe(samples)} is in the part that is held back: give more "
                "samples, or a larger share."
            )
        found = f"only {len(pending)} of the {pending[0].batch} that one batch takes" if pending else "none"
        again = " It must return a new iterator whenever it is called." if callable(samples) else ""
        raise SampleError(f"No samples to calibrate with: {found} in {describe(samples)}.{again}")


def warn_of_rest(count: int, batch: int, samples: Samples | Files) -> None:
    """Log a warning if samples at the end don't fill a batch.

    Args:
        count: how many these are.
        batch: how many samples a batch has.
        samples: all samples.
    """
    if count:
        _log.warning(
            f"The last {'sample' if count == 1 else f'{count} samples'} in {describe(samples)} "
            f"{'is' if count == 1 else 'are'} left out: the model takes {batch} at once, and a batch must be full."
        )


def hold_back_filter(hold_back: float, held_back: bool = False) -> FeedFilter | None:
    """Return a function that says which feeds calibration uses, or which are held back; None if none are held back.

    Feeds that are held back are spread evenly: for 0.1, they are the tenth, the twentieth, and so on.

    Args:
        hold_back: share of the feeds that is held back, 0 to 0.5.
        held_back: whether the feeds that are held back are meant, rather than the others.
    """
    if hold_back == 0:
        return None
    every = round(1 / hold_back)
    return lambda number: (number % every == every - 1) == held_back


def _fitted(
    samples: Samples | Files, inputs: Sequence[TensorSpec], batch_size: int, batch_nums: int | None
) -> Iterator[FittedSample]:
    fitter = SampleFitter(inputs)
    left = math.inf if batch_nums is None else batch_nums * batch_size
    stream = named_samples(samples, inputs)
    while left > 0 and (item := next(stream, None)) is not None:
        name, sample = item
        parts = 0
        for part in fitter.fit(sample, name):
            parts += 1
            yield part
        left -= 1 if parts == 1 else batch_size


def feed_count(
    samples: Samples, inputs: Sequence[TensorSpec], batch_size: int | None = None, batch_nums: int | None = None
) -> int | None:
    """Return how many feeds `feeds` will yield if all samples are like the first one; None if that isn't known.

    This is for showing progress. The number of samples from an iterator or a generator function isn't known before they
    are read; for these, the number that `batch_nums` asks for is returned.

    Raises:
        SampleError: the first sample doesn't fit the model, or a folder can't be read.
    """
    number = sample_count(samples)
    if number is None:
        return None if batch_nums is None else batch_nums * (batch_size or 1) // batch_of(inputs)
    name, first = next(named_samples(samples, inputs), ("", None))
    if first is None:
        return 0
    parts = list(SampleFitter(inputs).fit(first, name))
    if batch_nums is not None:
        number = min(number, batch_nums * (batch_size or 1) if len(parts) == 1 else batch_nums)
    return number * len(parts) // parts[0].batch if parts else 0


def batch_of(inputs: Sequence[TensorSpec]) -> int:
    """Return how many samples a program takes at once: the first dimension of its first input that has several.

    Inputs with more dimensions may come later, such as the states of recurrent layers, where the batch is the second.
    """
    shapes = sorted((i.shape for i in inputs), key=lambda shape: len(shape) < 2)
    return shapes[0][0] if shapes and shapes[0] else 1


def _title(batch: Sequence[FittedSample]) -> str:
    return batch[0].name if len(batch) == 1 else f"{batch[0].name} to {batch[-1].name}"


def _stacked(batch: Sequence[FittedSample], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    first = batch[0]
    if len(batch) == 1:
        return first.feed
    for other in batch[1:]:
        for spec in inputs:
            if (spec.name in other.single) != (spec.name in first.single):
                raise SampleError(
                    f"{capitalized(first.name)} and {other.name} go into one batch, but input {spec.name!r} has the "
                    f"shapes {first.feed[spec.name].shape} and {other.feed[spec.name].shape}."
                )
            if spec.name not in first.single and not np.array_equal(other.feed[spec.name], first.feed[spec.name]):
                raise SampleError(
                    f"{capitalized(first.name)} and {other.name} go into one batch of {first.batch}, with different "
                    f"values for input {spec.name!r}, which the whole batch shares: its shape is {spec.shape}. Give "
                    "samples that are whole batches, or build for a batch of 1."
                )
    return {
        spec.name: np.concatenate([b.feed[spec.name] for b in batch])
        if spec.name in first.single
        else first.feed[spec.name]
        for spec in inputs
    }
