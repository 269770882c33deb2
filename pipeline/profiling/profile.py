"""The profile of a library: time and bytes of each operator, and how close these are to the machine's limits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, OptionError
from pipeline.library.metadata import ArtifactMetadata, OperatorRecord
from pipeline.profiling.limits import Limits, measure_limits
from pipeline.runtime import open_runner
from pipeline.runtime.tensors import Array, random_feeds
from pipeline.runtime.trace import KernelTime, Trace

SLOW = 0.5
"""An operator that reaches less than this share of its limit gets a note."""

NOTABLE_SHARE = 0.01
"""An operator that takes less than this share of the time gets no note on its speed."""

NOTABLE_SECONDS = 2e-6
"""An operator that takes less time than this gets none either, as calling it takes as long as computing."""


@dataclass(frozen=True)
class OperatorProfile:
    """One operator of a library.

    Attributes:
        name: name of the tensor that it computes.
        operator: what it computes, such as `qnn.conv2d`.
        kernel: name of the kernel that computes it.
        shape, dtype: shape and dtype of its output.
        minimum_us, median_us: shortest and median time of one call, microseconds.
        share: its share of the time of all operators, by the shortest times.
        multiply_adds: how many multiply-adds it does; 0 unless it is a convolution or a matrix product.
        gmac_per_second: 10^9 multiply-adds each second, in the shortest time.
        of_peak: its multiply-adds each second as a share of the machine's limit; None if that wasn't measured.
        bytes: how many bytes it reads and writes: inputs, constants and output, each once.
        gbyte_per_second: 10^9 bytes each second, in the shortest time.
        of_limit: the shortest time that the machine's limits allow, as a share of its shortest time; None if the limits
            weren't measured.
        note: a remark in sentences, if it is slow or computed in float32; else "".
    """

    name: str
    operator: str
    kernel: str
    shape: tuple[int, ...]
    dtype: str
    minimum_us: float
    median_us: float
    share: float
    multiply_adds: int
    gmac_per_second: float
    of_peak: float | None
    bytes: int
    gbyte_per_second: float
    of_limit: float | None
    note: str


@dataclass(frozen=True)
class Profile:
    """How long a library takes on a machine, operator by operator.

    Attributes:
        model: the model's name.
        kind: "int8" or "float32".
        target: name of the target that the library was built for.
        threads: how many threads a run used.
        repeats: how many runs, and how many passes over the operators, were timed.
        limits: the machine's limits; None if they weren't measured.
        run_minimum_us, run_median_us: shortest and median time of a whole run, microseconds.
        operators_minimum_us, operators_median_us: shortest and median time of a pass over all operators, microseconds.
        overhead: share of a run that isn't spent in operators; see `runtime.trace.Trace.overhead`.
        operators: in order of execution.
    """

    model: str
    kind: str
    target: str
    threads: int
    repeats: int
    limits: Limits | None
    run_minimum_us: float
    run_median_us: float
    operators_minimum_us: float
    operators_median_us: float
    overhead: float
    operators: tuple[OperatorProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain values, for JSON."""
        return asdict(self)


def profile(
    library: str | Path,
    feeds: Mapping[str, Array] | None = None,
    *,
    threads: int | None = None,
    repeats: int = 30,
    limits: bool = True,
    rpc: str | None = None,
    tracker: str | None = None,
) -> Profile:
    """Return how long each operator of a library takes on this machine, or on a device.

    Args:
        library: the library.
        feeds: inputs by name; None means random ones, the same each time.
        threads: how many threads a run uses; None means one for each physical core, or the device's default.
        repeats: how many runs, and how many passes over the operators, are timed.
        limits: whether to measure the machine's limits. That needs the compiler, in a process of its own.
        rpc: address of the device's RPC server, as `RemoteRunner` takes it.
        tracker: address of a tracker, in place of `rpc`. With neither, this machine runs the library.

    Raises:
        ArtifactError: the file isn't a library of this pipeline, is damaged, or was built by an older pipeline that
            didn't record operators.
        TargetError: this machine can't run the library.
        DeviceError: the device can't be reached, or can't run the library.
        SampleError: an input is missing, unknown, or of the wrong shape or dtype.
        OptionError: there are fewer CPUs than `threads`, `repeats` is below 1, or an address is wrong.
        BuildError: the loops that measure the limits can't be built.
    """
    if repeats < 1:
        raise OptionError(f"repeats is {repeats}; it must be at least 1.")
    path = Path(library)
    with open_runner(path, threads, rpc, tracker) as runner:
        metadata = runner.metadata
        if not metadata.operators:
            raise ArtifactError(
                f"{path} doesn't say which operators it has: an older pipeline built it. Build it again."
            )
        measured = measure_limits(runner, path) if limits else None
        trace = runner.trace(random_feeds(runner.inputs) if feeds is None else feeds, repeats)
        used_threads = runner.num_threads
    return Profile(
        model=metadata.model,
        kind=metadata.kind,
        target=metadata.target.name,
        threads=used_threads,
        repeats=repeats,
        limits=measured,
        run_minimum_us=min(trace.runs) * 1e6,
        run_median_us=statistics.median(trace.runs) * 1e6,
        operators_minimum_us=min(trace.passes) * 1e6,
        operators_median_us=statistics.median(trace.passes) * 1e6,
        overhead=trace.overhead,
        operators=_operators(metadata, trace, measured),
    )


def _operators(metadata: ArtifactMetadata, trace: Trace, limits: Limits | None) -> tuple[OperatorProfile, ...]:
    total = sum(min(k.seconds) for k in trace.kernels)
    reasons = {o.name: o.reason for o in metadata.float_operators}
    return tuple(
        _operator(record, time, total, limits, _float_note(record, reasons) if metadata.kind == "int8" else "")
        for record, time in zip(metadata.operators, trace.kernels, strict=True)
    )


def _operator(
    record: OperatorRecord, time: KernelTime, total: float, limits: Limits | None, float_note: str
) -> OperatorProfile:
    seconds, moved = min(time.seconds), record.moved_bytes
    of_peak = of_limit = None
    notes = [float_note] if float_note else []
    if limits is not None:
        of_peak = record.multiply_adds / seconds / limits.peak(record.in_float)
        of_limit = limits.seconds(record.multiply_adds, moved, record.in_float) / seconds
        if of_limit < SLOW and seconds >= max(NOTABLE_SECONDS, NOTABLE_SHARE * total):
            notes.append(_slow_note(record, seconds, limits))
    return OperatorProfile(
        name=record.name,
        operator=record.operator,
        kernel=record.kernel,
        shape=record.output.shape,
        dtype=record.output.dtype,
        minimum_us=seconds * 1e6,
        median_us=statistics.median(time.seconds) * 1e6,
        share=seconds / total,
        multiply_adds=record.multiply_adds,
        gmac_per_second=record.multiply_adds / seconds * 1e-9,
        of_peak=of_peak,
        bytes=moved,
        gbyte_per_second=moved / seconds * 1e-9,
        of_limit=of_limit,
        note=" ".join(notes),
    )


def _float_note(record: OperatorRecord, reasons: Mapping[str, str]) -> str:
    """Return the note on an operator of an int8 library that is computed in float32; "" for other operators."""
    if not record.in_float:
        return ""
    reason = reasons.get(record.name)
    return f"Computed in float32: {reason}." if reason else "Computed in float32."


def _slow_note(record: OperatorRecord, seconds: float, limits: Limits) -> str:
    limit = limits.seconds(record.multiply_adds, record.moved_bytes, record.in_float)
    computing = record.multiply_adds / limits.peak(record.in_float)
    bound = "its multiply-adds" if computing == limit else f"moving {record.moved_bytes / 1e3:.1f} kB"
    return f"Takes {seconds * 1e6:.1f} us, {bound} could take {limit * 1e6:.1f} us."
