"""Runs a library on this machine with TVM's small runtime, without loading the compiler."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.cpu import missing_features, usable_cores
from pipeline.errors import ArtifactError, OptionError, TargetError
from pipeline.ir.program import TensorSpec, summary_of
from pipeline.library.metadata import ArtifactMetadata, read_metadata
from pipeline.runtime import ffi
from pipeline.runtime.library_runner import LibraryRunner
from pipeline.runtime.loading import CPU, LoadedLibrary, new_virtual_machine
from pipeline.runtime.tensors import Array, Tensor, aligned_zeros, prepare_feeds

if TYPE_CHECKING:
    from pipeline.runtime.trace import Trace

T = TypeVar("T")

_NO_EXTRAS = (0, 1, 0, 1, 0, "")
"""Arguments of TVM's time evaluator: no minimum duration, no pause between measurements, no flushing of caches."""


class Runner(LibraryRunner):
    """A library that is loaded on this machine. Calls from several threads are safe: they wait for one another.

    Args:
        path: the library.
        num_threads: how many threads one run may use; None means one for each physical core that the process may use.
            Each thread has a CPU; all runners of the process use the same CPUs.

    Attributes:
        metadata: what the library says about itself.
        num_threads: how many threads one run may use.

    Raises:
        ArtifactError: the file isn't a library of this pipeline, or is damaged.
        TargetError: this machine's CPU can't run it.
        OptionError: `num_threads` is below 1, or above the number of CPUs that the process may use.
    """

    def __init__(self, path: str | Path, num_threads: int | None = None) -> None:
        path = self._path = Path(path)
        self.metadata: ArtifactMetadata = read_metadata(path)
        _check_target(path, self.metadata)
        cpus = _choose_cpus(num_threads)
        self.num_threads = len(cpus)
        self._runtime = ffi.runtime()
        self._loaded = LoadedLibrary.open(path, cpus)
        self._last_inputs: _InputsInPlace | None = None

    def __repr__(self) -> str:
        """Return the model's name, type, target and threads, and its inputs and outputs."""
        m, threads = self.metadata, "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return f"<Runner {m.model}: {m.kind}, for {m.target.name}, {threads}\n{summary_of(m.inputs, m.outputs)}>"

    def input_buffers(self) -> dict[str, Array]:
        """Return an array of zeros for each input, by name. `run` uses such arrays without copying them."""
        return {spec.name: aligned_zeros(spec.shape, spec.dtype) for spec in self.inputs}

    def run(self, feeds: Mapping[str, Tensor], *, copy: bool = True) -> dict[str, Array]:
        """Run the library and return the outputs by name.

        Inputs that are contiguous, writable and aligned to 64 bytes aren't copied, and must not be changed before `run`
        returns. The runner keeps a reference to the inputs of the last run until the next one.

        Args:
            feeds: arrays, or tensors with `__dlpack__`, by input name. Their shapes and dtypes are those of `inputs`.
                The batch axis of a batch of one may be missing, and values of another dtype are converted unless
                information would be lost; see `conversion`.
            copy: whether outputs are copied, so that they belong to the caller. If not, they are read-only and share
                the memory that the program wrote them to. A later run doesn't write there; but an output that is just
                an input of the program shares that input's memory.

        Raises:
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
            ArtifactError: the library's program isn't what its metadata says.
        """
        arguments = self._arguments(feeds)
        return self._call("run", lambda loaded: self._outputs(loaded.main(*arguments), copy))

    def benchmark(self, feeds: Mapping[str, Tensor], repeats: int = 30, warmup: int = 3) -> list[float]:
        """Return the time of each of `repeats` runs, in seconds, after `warmup` runs that aren't counted."""
        arguments = self._arguments(feeds)
        return self._call("run", lambda loaded: [loaded.seconds(arguments) for _ in range(warmup + repeats)][warmup:])

    def trace(self, feeds: Mapping[str, Tensor], repeats: int = 30) -> Trace:
        """Return how long each kernel takes, and how long whole runs take.

        Args:
            feeds: inputs by name.
            repeats: how many whole runs, and how many runs with the kernels' timer, are measured. Before each, there is
                one more run that doesn't count.

        Raises:
            ArtifactError: the library can't time its kernels, as an older pipeline built it, or isn't what it says.
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
        """
        from pipeline.runtime.trace import TIMER_FUNCTION, TimerValues, measure_alternately, new_timer_values

        arguments = self._arguments(feeds)
        kernels = [o.kernel for o in self.metadata.operators]

        def measure(loaded: LoadedLibrary) -> Trace:
            machine = new_virtual_machine(loaded.executable)
            main, start_timer = machine["main"], loaded.executable[TIMER_FUNCTION]
            values = new_timer_values(len(kernels))
            tensor = self._runtime.tensor(values)

            def times() -> TimerValues:
                start_timer(machine, tensor)
                main(*arguments)
                return values

            return measure_alternately(lambda: loaded.seconds(arguments), times, kernels, repeats)

        return self._call("traced", measure)

    def time_function(
        self, library: Path, name: str, buffers: Sequence[Array], numbers: Sequence[tuple[int, ...]], repeats: int
    ) -> list[list[float]]:
        """Time a function of any TVM library, in this runner's thread and with its CPUs; see `LibraryRunner`."""

        def measure() -> list[list[float]]:
            evaluator = self._runtime.function("runtime.RPCTimeEvaluator")
            module = self._runtime.load_module(str(library))
            timed = evaluator(module, name, CPU, 0, 1, repeats, *_NO_EXTRAS)
            tensors = [self._runtime.tensor(buffer) for buffer in buffers]
            return [list(struct.unpack(f"@{repeats}d", timed(*tensors, *values))) for values in numbers]

        return self._usable_library().worker.call(measure)

    def _usable_library(self) -> LoadedLibrary:
        """Return the library with a thread of this process. A forked process doesn't have its parent's threads."""
        if not self._loaded.worker.is_in_this_process:
            self._loaded = LoadedLibrary(self._loaded.executable, self._loaded.cpus)
        return self._loaded

    def _call(self, done: str, function: Callable[[LoadedLibrary], T]) -> T:
        """Call a function in the library's thread and return its result.

        Raises:
            ArtifactError: the call failed, as the library isn't what its metadata says. The message contains `done`.
        """
        loaded = self._usable_library()
        try:
            return loaded.worker.call(lambda: function(loaded))
        except ffi.RuntimeCallError as error:
            raise ArtifactError(
                f"{self._path} can't be {done} as its metadata says: {error}. Build it again."
            ) from error

    def _arguments(self, feeds: Mapping[str, Tensor]) -> Sequence[ffi.Tensor]:
        if (last := self._last_inputs) is not None and last.match(feeds):
            return last.tensors
        arrays = prepare_feeds(feeds, self.inputs)
        tensors = [self._runtime.tensor(a) for a in arrays]
        in_place = all(a is feeds[i.name] for i, a in zip(self.inputs, arrays, strict=True))
        self._last_inputs = _InputsInPlace.of(self.inputs, arrays, tensors) if in_place else None
        return tensors

    def _outputs(self, result: Any, copy: bool) -> dict[str, Array]:
        values = [result] if isinstance(result, ffi.Tensor) else list(result)
        if len(values) != len(self.outputs):
            raise ArtifactError(
                f"{self._path} has {len(values)} outputs, its metadata lists {len(self.outputs)}. Build it again."
            )
        # An output may share memory with a constant of the library, or with an input.
        views = [np.from_dlpack(v) for v in values]
        for spec, view in zip(self.outputs, views, strict=True):
            if view.shape != spec.shape or view.dtype != spec.dtype:
                raise ArtifactError(
                    f"{self._path}: output {spec.name!r} has the shape {list(view.shape)} and dtype {view.dtype}, its "
                    f"metadata says {list(spec.shape)} and {spec.dtype}. Build it again."
                )
            view.flags.writeable = False
        return {o.name: v.copy() if copy else v for o, v in zip(self.outputs, views, strict=True)}


@dataclass(frozen=True)
class _InputsInPlace:
    """The inputs of the last run, if it used all of them without a copy.

    Most callers give the same arrays again, and then the next run needn't check them. This saves about 30 us for each
    run: a run evicts Python's own data from the caches, so that checks that take 5 us in a loop take 30 us after it.

    Attributes:
        arrays: name and array of each input, and its shape, strides and dtype, which the caller may have changed since.
        tensors: the arrays as tensors of the runtime.
    """

    arrays: tuple[tuple[str, Array, tuple[Any, ...]], ...]
    tensors: Sequence[ffi.Tensor]

    @classmethod
    def of(cls, specs: Sequence[TensorSpec], arrays: Sequence[Array], tensors: Sequence[ffi.Tensor]) -> _InputsInPlace:
        """Return an object for arrays that have been checked, and their tensors, in the order of the inputs."""
        named = zip(specs, arrays, strict=True)
        return cls(tuple((s.name, a, (a.shape, a.strides, a.dtype)) for s, a in named), tensors)

    def match(self, feeds: Mapping[str, Tensor]) -> bool:
        """Return whether these are the same array objects, with the same shapes, strides and dtypes."""
        return len(feeds) == len(self.arrays) and all(
            feeds.get(name) is array and (array.shape, array.strides, array.dtype) == form
            for name, array, form in self.arrays
        )


def _check_target(path: Path, metadata: ArtifactMetadata) -> None:
    target = metadata.target
    missing = missing_features(target.architecture, target.required_features)
    if missing:
        raise TargetError(
            f"{path} was built for {target.name} and can't run here: this machine lacks {', '.join(missing)}. "
            "Build it with --target host, or run it on a device with --rpc."
        )


def _choose_cpus(num_threads: int | None) -> tuple[int, ...]:
    cores = usable_cores()
    if num_threads is None:
        return tuple(core[0] for core in cores)
    # Each thread gets a core of its own as long as there are cores; then the cores' second hardware threads are used.
    cpus = sorted((rank, cpu) for core in cores for rank, cpu in enumerate(core))
    if not 1 <= num_threads <= len(cpus):
        raise OptionError(f"num_threads is {num_threads}; this process may use 1 to {len(cpus)}.")
    return tuple(cpu for _, cpu in cpus[:num_threads])
