"""Runs a library on this machine, with TVM's small runtime only; the compiler isn't loaded."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifact import ArtifactMetadata, read_metadata
from pipeline.errors import ArtifactError, OptionError, SampleError, TargetError
from pipeline.program import TensorSpec
from pipeline.targets import missing_features

Array = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes; kernels load whole vectors."""

_CPU = 1
_POOLED_ALLOCATOR = 2
_ALL_CORES = 1


class Runner:
    """A library, loaded and ready. Calls from several threads are safe; they wait for one another.

    Args:
        path: the library.
        num_threads: how many threads one run may use; None leaves TVM's default, the number of cores. TVM has one pool
            for the process, so the last runner that sets this decides for all.

    Attributes:
        metadata: what the library says about itself.

    Raises:
        ArtifactError: the file isn't a library of this pipeline, or is damaged.
        TargetError: this machine's CPU can't run it.
        OptionError: `num_threads` is below 1.
    """

    def __init__(self, path: str | Path, num_threads: int | None = None) -> None:
        path = Path(path)
        self.metadata: ArtifactMetadata = read_metadata(path)
        target = self.metadata.target
        missing = missing_features(target.architecture, target.required_features)
        if missing:
            raise TargetError(
                f"{path} was built for {target.name} and can't run here: this machine lacks {', '.join(missing)}. "
                "Build it with --target host, or run it on a device with --rpc."
            )
        if num_threads is not None and num_threads < 1:
            raise OptionError(f"num_threads is {num_threads}; it must be at least 1.")
        ffi = _runtime()
        try:
            library = ffi.load_module(str(path.resolve()))
            machine = library["vm_load_executable"]()
            machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        except (AttributeError, RuntimeError, ValueError, OSError) as error:
            raise ArtifactError(f"{path} can't be loaded: {error}") from error
        if num_threads is not None:
            ffi.get_global_func("runtime.config_threadpool")(_ALL_CORES, num_threads)
        self._ffi = ffi
        self._main = machine["main"]
        self._machine = machine
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in order."""
        return self.metadata.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in order."""
        return self.metadata.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for inputs by name.

        Raises:
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
        """
        arguments = self._arguments(feeds)
        with self._lock:
            return self._results(self._main(*arguments))

    def benchmark(self, feeds: Mapping[str, Array], repeats: int = 30, warmup: int = 3) -> list[float]:
        """Return the time of each of `repeats` runs, in seconds, after `warmup` runs that aren't counted."""
        arguments = self._arguments(feeds)
        seconds = []
        with self._lock:
            for i in range(warmup + repeats):
                start = time.perf_counter()
                self._main(*arguments)
                if i >= warmup:
                    seconds.append(time.perf_counter() - start)
        return seconds

    def _arguments(self, feeds: Mapping[str, Array]) -> list[Any]:
        return [self._ffi.from_dlpack(a) for a in check_feeds(feeds, self.inputs)]

    def _results(self, result: Any) -> dict[str, Array]:
        values = [result] if isinstance(result, self._ffi.Tensor) else list(result)
        return {o.name: np.from_dlpack(v).copy() for o, v in zip(self.outputs, values, strict=True)}


def check_feeds(feeds: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[Array]:
    """Return the inputs in order, contiguous and aligned to 64 bytes, as kernels need them; others are copied.

    Raises:
        SampleError: an input is missing, unknown, or of the wrong shape or dtype.
    """
    expected = {i.name for i in inputs}
    if set(feeds) != expected:
        raise SampleError(f"The model's inputs are {sorted(expected)}; got {sorted(feeds)}.")
    arrays = []
    for spec in inputs:
        value = np.asarray(feeds[spec.name])
        if value.shape != spec.shape or str(value.dtype) != spec.dtype:
            raise SampleError(
                f"Input {spec.name!r} has the shape {value.shape} and dtype {value.dtype}; "
                f"expected {spec.shape} and {spec.dtype}."
            )
        arrays.append(_aligned(value))
    return arrays


def _aligned(value: Array) -> Array:
    if value.flags.c_contiguous and value.flags.writeable and value.ctypes.data % ALIGNMENT == 0:
        return value
    memory = np.empty(value.nbytes + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def _runtime() -> Any:
    """Return tvm_ffi with TVM's runtime loaded: the small library, unless this process has the compiler already."""
    import tvm_ffi

    if "tvm" not in sys.modules and tvm_ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is None:
        spec = importlib.util.find_spec("tvm")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        library = folder / "lib" / "libtvm_runtime.so" if folder is not None else None
        if library is None or not library.is_file():
            raise ArtifactError("TVM's runtime isn't installed. Install the apache-tvm package.")
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return tvm_ffi
