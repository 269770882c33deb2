"""Runs the float program over samples, and passes tensors' values to the observers and statistics that want them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.compiler.calibration_loops import NotFiniteError, compile_ahead, extent
from pipeline.compiler.codegen import concurrently
from pipeline.compiler.execute import AT_ONCE, release_activations, shared_executor
from pipeline.compiler.threads import most_sharers, sharing_threads
from pipeline.config.options import CalibrateOptions
from pipeline.errors import SampleError
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.input_range import range_warnings
from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.resuming import Resumption
from pipeline.quantization.statistics import Statistic
from pipeline.samples import Samples, batch_of, hold_back_filter, named_feeds
from pipeline.samples.statistics import SampleStatistics

Array = npt.NDArray[Any]

RANGE_BATCHES = 4
"""How many batches, the first ones, are examined for values of another range than the model was trained on."""

MOST_SHARED = 2**26
"""Bytes of a batch's wanted values up to which several batches are run at once: larger ones would take much memory, and
gain less."""

THREADED = 2**20
"""Of so many values in a batch, tensors are watched in several threads, where watchers run on one core each."""

_logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """An observer or a statistic, which sees a tensor's values batch by batch."""

    @property
    def on_all_cores(self) -> bool:
        """Whether `update` itself runs on all cores."""

    def update(self, values: Array) -> None:
        """Take in a tensor's values for one batch: float32, finite unless it is a statistic that takes all values."""


def collect(
    program: Program,
    watchers: Mapping[str, Sequence[Watcher]],
    samples: Samples,
    options: CalibrateOptions,
    progress: Callable[[int], None] | None = None,
    warn: bool = True,
    resumption: Resumption | None = None,
) -> int:
    """Run the program once over the samples, update each tensor's watchers, and return how many samples there were.

    A warning says so if there are few samples, if they are all the same or constant, or if their values have another
    range than the model was trained on (`samples.statistics`, `quantization.input_range`).

    Memory holds one batch's activations, or two small ones', and what the watchers keep, however many samples there
    are. Samples are read ahead, by no more than two batches.

    Args:
        program: a float program.
        watchers: by name of the tensor that they watch.
        samples: a folder, an iterable or a generator function; see `samples`.
        options: how many samples to take, and how many at once.
        progress: called after each batch with the number of batches so far.
        warn: whether to look at the samples, and warn.
        resumption: knows of the batches that the watchers have seen already, and is told of others.

    Raises:
        SampleError: there is no sample, one doesn't fit the model, or the model's values for it aren't finite.
        OptionError: the samples aren't those of the resumption, or its file can't be written.
    """
    compile_ahead()
    batch, names = batch_of(program.inputs), known_names(program, watchers)
    batches, statistics, kept = 0, SampleStatistics(program.inputs), list[Mapping[str, Array]]()
    if resumption is not None:
        batches, statistics, kept = resumption.batches, resumption.statistics, resumption.first_feeds

    def take_in(sample: str, feed: Mapping[str, Array], activations: Mapping[str, Array]) -> None:
        statistics.update(sample, feed, batch)
        if len(kept) < RANGE_BATCHES:
            kept.append(feed)
        watch(watchers, activations, sample, names)
        if resumption is not None:
            resumption.note(feed)

    for _ in _runs(program, list(watchers), _feeds(program, samples, options, resumption), take_in):
        batches += 1
        if progress is not None:
            progress(batches)
    release_activations()
    if resumption is not None:
        resumption.save()
    if warn:
        warn_of_samples(program, statistics, kept)
    return batches * batch


def watch(
    watchers: Mapping[str, Sequence[Watcher]],
    activations: Mapping[str, Array],
    sample: str,
    names: Mapping[str, str],
) -> None:
    """Update the watchers of all tensors for one batch.

    Args:
        watchers: by name of the tensor that they watch.
        activations: the tensors' values.
        sample: name of the batch in messages.
        names: the names that users know for the tensors; see `known_names`.

    Raises:
        SampleError: a tensor has values that aren't finite, and a watcher that takes no others.
    """

    def see(name: str, own: Iterable[Watcher]) -> None:
        for watcher in own:
            watcher.update(activations[name])

    rest: dict[str, list[Watcher]] = {}
    for name, values in activations.items():
        own = watchers[name]
        try:
            # Histograms look for such values as they come to them; looking at all values twice takes longer.
            checked = any(isinstance(w, Histogram) for w in own)
            if not checked and any(not isinstance(w, Statistic) or w.finite for w in own):
                extent(values)
            see(name, [w for w in own if w.on_all_cores])
        except NotFiniteError as error:
            raise SampleError(
                f"Tensor {names[name]!r} is NaN or infinite for {sample}: the float model itself overflows on it. "
                "Check the sample's preprocessing."
            ) from error
        if others := [w for w in own if not w.on_all_cores]:
            rest[name] = others
    if sum(activations[name].size for name in rest) < THREADED:
        for name, others in rest.items():
            see(name, others)
    else:
        # Most of the work is done without Python's lock.
        concurrently(lambda name: see(name, rest[name]), rest)


def warn_of_samples(program: Program, statistics: SampleStatistics, feeds: Sequence[Mapping[str, Array]]) -> None:
    """Log warnings of what is odd about samples.

    Args:
        program: the float program.
        statistics: have seen all samples.
        feeds: the first `RANGE_BATCHES` batches.
    """
    for text in (*statistics.warnings(), *range_warnings(program, feeds)):
        _logger.warning(text)


def _feeds(
    program: Program, samples: Samples, options: CalibrateOptions, resumption: Resumption | None
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield for each batch that watchers haven't seen its name in messages and the inputs."""
    part = hold_back_filter(options.hold_back)
    stream = named_feeds(samples, program.inputs, options.batch_size, options.batch_nums, part, warn=True)
    return stream if resumption is None else resumption.remaining(stream)


def _runs(
    program: Program,
    names: list[str],
    feeds: Iterator[tuple[str, dict[str, Array]]],
    take_in: Callable[[str, Mapping[str, Array], Mapping[str, Array]], None],
) -> Iterator[None]:
    """Run a program, and yield after each batch.

    Small batches are run several at once, each on its share of the cores. One alone leaves cores idle, at the end of
    each kernel and between kernels; in order, then, comes only what is done with its values.

    Args:
        program: see `collect`.
        names: the tensors whose values are wanted.
        feeds: for each batch, its name in messages and the inputs.
        take_in: called with each batch's name, inputs and values of tensors, in order, in another thread.
    """

    def run(before: Future[None] | None, name: str, feed: Mapping[str, Array]) -> None:
        activations = shared_executor(program, names).tensors(feed, names)
        if before is not None:
            before.result()
        take_in(name, feed, activations)

    at_once = min(AT_ONCE, most_sharers()) if _bytes(program, names) <= MOST_SHARED else 1
    pending = deque[Future[None]]()
    pool = sharing_threads(at_once)
    try:
        for name, feed in feeds:
            if not pending:
                shared_executor(program, names)
            # The user may write the next sample to the same memory.
            own = {key: np.array(value) for key, value in feed.items()}
            pending.append(pool.submit(run, pending[-1] if pending else None, name, own))
            if len(pending) > at_once:
                pending.popleft().result()
                yield
        while pending:
            pending.popleft().result()
            yield
    finally:
        wait(pending)


def _bytes(program: Program, names: Iterable[str]) -> int:
    """Return how much memory tensors of a program take."""
    wanted = set(names)
    tensors = (b.var for b in Dataflow.of(program.module).bindings if b.var.name in wanted)
    return sum(t.size * np.dtype(t.dtype).itemsize for t in map(tensor_type, tensors))


def known_names(program: Program, names: Iterable[str]) -> dict[str, str]:
    """Return the names that the user knows for tensors: for a transposed or reshaped one, that of the original."""
    flow = Dataflow.of(program.module)
    by_name = {str(b.var.name): b.var for b in flow.bindings}

    def known(name: str) -> str:
        var = by_name.get(name)
        while var in flow.producers and flow.producers[var].operator in ("relax.permute_dims", "relax.reshape"):
            var = flow.producers[var].value.args[0]
        return name if var is None else str(var.name)

    return {name: known(name) for name in names}
