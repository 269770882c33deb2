"""Samples in blocks of feeds, for other processes: the feeds themselves, or the files that hold them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.files import stored_arrays
from pipeline.ir.program import TensorSpec
from pipeline.samples import FeedFilter, named_feeds, warn_of_rest
from pipeline.samples.fitting import SampleFitter
from pipeline.samples.images import Images, is_picture
from pipeline.samples.reading import Files, Samples, folder_of, preprocessing_of, sample_files

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Feeds that follow one another.

    Attributes:
        first: number of the first of them.
        sent: the feeds, each after its name in messages; () if they are to be read.
        files: what they are to be read from, where the block is worked on; None if they are sent.
    """

    first: int
    sent: tuple[tuple[str, dict[str, Array]], ...] = ()
    files: Files | None = None

    def feeds(self, inputs: Sequence[TensorSpec]) -> Iterator[tuple[str, dict[str, Array]]]:
        """Yield (name, feed).

        Args:
            inputs: the program's inputs.

        Raises:
            SampleError: a file can't be read, or doesn't fit.
        """
        return iter(self.sent) if self.files is None else named_feeds(self.files, inputs)


def blocks(
    samples: Samples,
    inputs: Sequence[TensorSpec],
    length: int,
    batch_size: int = 1,
    batch_nums: int | None = None,
    part: FeedFilter | None = None,
) -> Iterator[Block]:
    """Yield the feeds that `named_feeds` yields, in blocks.

    A folder's files are only named, if each holds one sample; their headers are read to see that. Whatever else samples
    are, they are read when a block is needed.

    Args:
        samples: see `named_feeds`; so are the others.
        inputs: the program's inputs.
        length: how many feeds a block has; the last one may have fewer.
        batch_size: how many samples `batch_nums` counts as one batch.
        batch_nums: how many of these to use; None means all.
        part: says which feeds to yield; None means all.

    Raises:
        SampleError, OptionError: see `named_feeds`.
    """
    listed = _files_of_feeds(samples, inputs, None if batch_nums is None else batch_nums * batch_size, part)
    if listed is not None:
        preprocessing = preprocessing_of(samples, inputs)
        for first in range(0, len(listed), length):
            paths = itertools.chain.from_iterable(listed[first : first + length])
            yield Block(first, files=Files(tuple(paths), preprocessing))
        return
    stream = named_feeds(samples, inputs, batch_size, batch_nums, part, warn=True)
    for first in itertools.count(0, length):
        sent = tuple(itertools.islice(stream, length))
        if not sent:
            return
        yield Block(first, sent)


def _files_of_feeds(
    samples: Samples, inputs: Sequence[TensorSpec], limit: int | None, part: FeedFilter | None
) -> list[tuple[Path, ...]] | None:
    """Return the files of each feed; None if feeds aren't a folder's files one by one, or there are none."""
    if not isinstance(samples, str | Path | Images):
        return None
    files, fitter = [file.absolute() for file in sample_files(folder_of(samples))][:limit], SampleFitter(inputs)
    sizes = {_batch(file, inputs, fitter) for file in files}
    batch = sizes.pop()
    if sizes or batch is None:
        return None
    feeds = [tuple(files[i * batch : (i + 1) * batch]) for i in range(len(files) // batch)]
    chosen = [feed for i, feed in enumerate(feeds) if part is None or part(i)]
    if chosen:
        warn_of_rest(len(files) % batch, batch, samples)
    return chosen or None


def _batch(file: Path, inputs: Sequence[TensorSpec], fitter: SampleFitter) -> int | None:
    """Return how many samples like a file's make a batch; None if it holds several."""
    if is_picture(file):
        return inputs[0].shape[0] if len(inputs[0].shape) == 4 else 1
    return fitter.batch(stored_arrays(file), str(file))
