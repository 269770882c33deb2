"""What every runner of a library can do, whether it runs on this machine or on a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ir.program import TensorSpec
from pipeline.library.metadata import ArtifactMetadata
from pipeline.runtime.tensors import Array, Tensor

if TYPE_CHECKING:
    from pipeline.runtime.trace import Trace


class LibraryRunner(ABC):
    """A library, loaded and ready: `runtime.local.Runner` on this machine, `runtime.rpc.RemoteRunner` on a device.

    Attributes:
        metadata: what the library says about itself.
        num_threads: how many threads one run may use.
    """

    metadata: ArtifactMetadata
    num_threads: int

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in order."""
        return self.metadata.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in order."""
        return self.metadata.outputs

    @abstractmethod
    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Array]:
        """Return the outputs by name for inputs by name: arrays, or tensors with `__dlpack__`.

        Raises:
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
            ArtifactError: the library's program isn't what its metadata says.
        """

    @abstractmethod
    def benchmark(self, feeds: Mapping[str, Tensor], repeats: int = 30, warmup: int = 3) -> list[float]:
        """Return the time of each of `repeats` runs, in seconds, after `warmup` runs that aren't counted."""

    @abstractmethod
    def trace(self, feeds: Mapping[str, Tensor], repeats: int = 30) -> Trace:
        """Return how long each kernel takes, and how long whole runs take; `repeats` runs of each kind are timed.

        Raises:
            ArtifactError: the library can't time its kernels, as an older pipeline built it, or isn't what it says.
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
        """

    @abstractmethod
    def time_function(
        self, library: Path, name: str, buffers: Sequence[Array], numbers: Sequence[tuple[int, ...]], repeats: int
    ) -> list[list[float]]:
        """Time a function of any TVM library where this runner's library runs, with its threads.

        Args:
            library: the library, on this machine; it stays loaded as long as the process or the session lives.
            name: name of the function.
            buffers: its first arguments: contiguous, writable, aligned to 64 bytes.
            numbers: tuples of its other arguments; the function is timed with each tuple.
            repeats: how often it is timed with each.

        Returns:
            for each tuple of numbers, the time of each call in seconds.
        """
