"""What an engine is, and the one that every machine has: this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

import numpy.typing as npt

from pipeline.ir.program import Program

Array = npt.NDArray[Any]

Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a program: outputs by name, for one batch of inputs by name."""


@dataclass(frozen=True)
class Watched:
    """A program of which not the outputs are wanted, but other tensors.

    Attributes:
        program: the program.
        tensors: variables of its module.
    """

    program: Program
    tensors: tuple[str, ...]


Runnable: TypeAlias = Program | Watched | Path
"""What can be run: a program, or a library for this machine."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Work(Protocol[Item_contra, Result_co]):
    """What is done with each item, whatever was done with others. An engine may send it to other processes."""

    def __call__(self, runs: Sequence[Run], item: Item_contra) -> Iterator[Result_co]:
        """Yield results.

        Args:
            runs: run the programs that the work needs.
            item: what to do it with.
        """


class Engine(ABC):
    """Does work.

    Class attributes:
        remote: whether other processes do it, so that it should come in portions.
    """

    remote: ClassVar[bool]

    @abstractmethod
    def map(self, work: Work[Item, Result], programs: Sequence[Runnable], items: Iterable[Item]) -> Iterator[Result]:
        """Yield all items' results, in the items' order.

        Args:
            work: what to do.
            programs: what it runs.
            items: what to do it with. They are read one by one as work proceeds, so that few are in memory.

        Raises:
            PipelineError: what the work raises for the first item for which it raises something, or a DeviceError if
                workers fail.
        """


class ThisProcess(Engine):
    """Does all work here, one item after the other."""

    remote = False

    def map(self, work: Work[Item, Result], programs: Sequence[Runnable], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine`. Each result is there as soon as the work yields it."""
        runs = [_run(program) for program in programs]
        for item in items:
            yield from work(runs, item)


def _run(program: Runnable) -> Run:
    # Only here: workers do without the compiler.
    from pipeline.compiler.execute import shared_executor
    from pipeline.runtime.local import Runner

    if isinstance(program, Path):
        return Runner(program).run
    if isinstance(program, Program):
        return shared_executor(program).run
    executor, tensors = shared_executor(program.program, program.tensors), program.tensors
    return lambda feeds: executor.tensors(feeds, tensors)
