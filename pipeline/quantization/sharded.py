"""Collects what calibration and corrections need: in this process, or block by block in others.

In others, each block's observers and statistics begin with nothing seen, and what they have seen is merged in the
blocks' order. That is, to the last bit, what this process collects by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

import pipeline
from pipeline.config.options import CalibrateOptions
from pipeline.errors import OptionError
from pipeline.ir.program import Program, TensorSpec
from pipeline.quantization.collect import RANGE_BATCHES, Watcher, collect, known_names, warn_of_samples, watch
from pipeline.quantization.observers import ALGORITHMS, Observer, make_observer
from pipeline.quantization.resuming import Resumption, text_digest
from pipeline.quantization.spec import ObserverSpec
from pipeline.quantization.statistics import BLOCK, Need, Statistic
from pipeline.samples import Samples, batch_of, hold_back_filter
from pipeline.samples.blocks import Block, blocks
from pipeline.samples.statistics import SampleStatistics
from pipeline.scale_out import Engine, Run, Watched

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Collected:
    """What was collected.

    Attributes:
        observers: by the tensor that they have seen.
        statistics: by what they were needed for.
        samples: how many samples there were.
    """

    observers: Mapping[str, Observer]
    statistics: Mapping[Need, Statistic]
    samples: int


def collect_with(
    engine: Engine,
    program: Program,
    observers: Mapping[str, ObserverSpec],
    needs: Iterable[Need],
    samples: Samples,
    options: CalibrateOptions,
    progress: Callable[[int], None] | None = None,
    warn: bool = True,
) -> Collected:
    """Run the program once over the samples, and return what observers and statistics have seen; see `collect`.

    Args:
        engine: runs the program.
        program: a float program.
        observers: what observes a tensor, by its name.
        needs: the statistics to collect.
        samples: see `collect`; so are the others.
        options: how many samples to take, and how many at once.
        progress: called now and then with the number of batches so far.
        warn: whether to look at the samples, and warn.

    Raises:
        SampleError: see `collect`.
        OptionError: other processes are to run the program, and an algorithm depends on the samples' order, or the
            pass is to be resumable; or what it resumes is of another model, other samples or options.
        DeviceError: other processes failed.
    """
    needs = tuple(needs)
    if engine.remote and options.resume is not None:
        raise OptionError(
            "--resume keeps what this process has seen, not what workers have. Leave it out, or --workers and "
            "--cluster."
        )
    if engine.remote:
        return _collect_blocks(engine, program, observers, needs, samples, options, progress, warn)
    made = _Watchers.of(observers, needs)
    resumption = None
    if options.resume is not None:
        made_from = _made_from(program, observers, needs, options)
        resumption = Resumption(options.resume, made_from, made.all(), SampleStatistics(program.inputs))
    count = collect(program, made.by_tensor(), samples, options, progress, warn, resumption)
    return Collected(made.observers, made.statistics, count)


def _made_from(
    program: Program, observers: Mapping[str, ObserverSpec], needs: Sequence[Need], options: CalibrateOptions
) -> dict[str, str]:
    """Return what determines what observers and statistics will have seen, besides the samples; see `Resumption`."""
    return {
        "version of this package": pipeline.__version__,
        "model": program.source_sha256,
        "shape of inputs": text_digest(program.inputs),
        "choice of tensors, algorithms or corrections": text_digest([*sorted(observers.items()), *needs]),
        "--hold-back": str(options.hold_back),
    }


def _collect_blocks(
    engine: Engine,
    program: Program,
    observers: Mapping[str, ObserverSpec],
    needs: tuple[Need, ...],
    samples: Samples,
    options: CalibrateOptions,
    progress: Callable[[int], None] | None,
    warn: bool,
) -> Collected:
    _refuse_ordered(observers)
    whole = _Watchers.of(observers, needs)
    seen, first_feeds, batches = SampleStatistics(program.inputs), list[Mapping[str, Array]](), 0
    names = list(dict.fromkeys((*observers, *(need.tensor for need in needs))))
    work = _Collection(program.inputs, dict(observers), needs, known_names(program, names))
    part = hold_back_filter(options.hold_back)
    items = blocks(samples, program.inputs, BLOCK, options.batch_size, options.batch_nums, part)
    for found in engine.map(work, [Watched(program, tuple(names))], items):
        whole.merge(_Watchers.of(observers, needs, found.states))
        seen.merge(found.samples)
        first_feeds += found.first_feeds
        batches += found.batches
        if progress is not None:
            progress(batches)
    if warn:
        warn_of_samples(program, seen, first_feeds)
    return Collected(whole.observers, whole.statistics, batches * batch_of(program.inputs))


def _refuse_ordered(observers: Mapping[str, ObserverSpec]) -> None:
    for tensor, spec in observers.items():
        make_observer(spec)
        if ALGORITHMS[spec.algorithm].ordered:
            raise OptionError(
                f"The calibration algorithm {spec.algorithm} (tensor {tensor!r}) depends on the order of the samples, "
                "so workers can't share them. Choose another --algorithm, avg for example, or leave --workers and "
                "--cluster out."
            )


@dataclass(frozen=True)
class _Watchers:
    """Observers and statistics."""

    observers: dict[str, Observer]
    statistics: dict[Need, Statistic]

    @classmethod
    def of(
        cls,
        observers: Mapping[str, ObserverSpec],
        needs: Sequence[Need],
        states: Sequence[Mapping[str, Array]] = (),
        first: int = 0,
    ) -> _Watchers:
        """Return new ones for the batches from a number on, or those of whom these are the states."""
        made = cls(
            {name: make_observer(spec) for name, spec in observers.items()}, {need: need.make(first) for need in needs}
        )
        for watcher, state in zip(made.all(), states, strict=False):
            watcher.restore(state)
        return made

    def all(self) -> list[Observer | Statistic]:
        """Return all of them, in order."""
        return [*self.observers.values(), *self.statistics.values()]

    def merge(self, other: _Watchers) -> None:
        """Take in what others of the same specifications have seen of the next block."""
        for own, others in zip(self.all(), other.all(), strict=True):
            own.merge(others)

    def by_tensor(self) -> dict[str, list[Watcher]]:
        """Return the watchers of each tensor."""
        found: dict[str, list[Watcher]] = {name: [observer] for name, observer in self.observers.items()}
        for need, statistic in self.statistics.items():
            found.setdefault(need.tensor, []).append(statistic)
        return found


@dataclass(frozen=True)
class _Seen:
    """What was seen of a block.

    Attributes:
        batches: how many there were.
        states: of all observers and statistics, in order.
        samples: what is unusual about the samples.
        first_feeds: the first feeds, of the first block only.
    """

    batches: int
    states: tuple[dict[str, Array], ...]
    samples: SampleStatistics
    first_feeds: list[Mapping[str, Array]] = field(default_factory=list)


@dataclass(frozen=True)
class _Collection:
    """The work: runs the program over a block, and watches.

    Attributes:
        inputs: of the program.
        observers: see `collect_with`.
        needs: see `collect_with`.
        names: the names that users know for the program's tensors.
    """

    inputs: tuple[TensorSpec, ...]
    observers: Mapping[str, ObserverSpec]
    needs: tuple[Need, ...]
    names: Mapping[str, str]

    def __call__(self, runs: Sequence[Run], item: Block) -> Iterator[_Seen]:
        """Yield what was seen of a block, once."""
        made = _Watchers.of(self.observers, self.needs, first=item.first)
        watchers, batches = made.by_tensor(), 0
        samples, first_feeds = SampleStatistics(self.inputs), list[Mapping[str, Array]]()
        for name, feed in item.feeds(self.inputs):
            samples.update(name, feed, batch_of(self.inputs))
            first_feeds += [feed] if item.first + batches < RANGE_BATCHES else []
            watch(watchers, runs[0](feed), name, self.names)
            batches += 1
        yield _Seen(batches, tuple(watcher.state() for watcher in made.all()), samples, first_feeds)
