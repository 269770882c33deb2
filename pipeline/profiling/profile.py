"""The profile of a library: every operator's time and traffic, what it could be, and what to look at."""

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
"""An operator that reaches a smaller share of its limit is remarked on."""

NOTABLE_SHARE = 0.01
"""An operator that takes a smaller share of the time isn't remarked on for its speed."""

NOTABLE_SECONDS = 2e-6
"""Nor is one that takes less time: calling it costs as much as computing."""


@dataclass(frozen=True)
class OperatorProfile:
    """One operator of a library.

    Attributes:
        name: the tensor that it computes.
        operator: what is computed, such as `qnn.conv2d`.
        kernel: the function that computes it.
        shape, dtype: of the output.
        minimum_us, median_us: time of one call.
        share: of the time of all operators; by the shortest times.
        multiply_adds: how many it does; 0 if it is no convolution or matrix product.
        gmac_per_second: 10^9 multiply-adds each second, in the shortest time.
        of_peak: share of what the machine can do in registers; None if that wasn't measured.
        bytes: read and written: inputs, constants, output.
        gbyte_per_second: 10^9 of them each second, in the shortest time.
        of_limit: share of its roofline limit, by multiply-adds or bytes, whichever takes longer; None if that wasn't
            measured.
        note: what to look at; empty if there is nothing.
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
    """How long a library takes on a machine, and where.

    Attributes:
        model: the model's name.
        kind: "int8" or "float32".
        target: what it was built for.
        threads: of a run.
        repeats: how many runs, and passes over the operators, were timed.
        limits: what the machine can do; None if that wasn't measured.
        run_minimum_us, run_median_us: time of a whole run.
        operators_minimum_us, operators_median_us: time of a pass over all operators.
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
        feeds: inputs by name; None means seeded noise.
        threads: of a run; None means one for each physical core, or the device's default.
        repeats: how many runs, and passes over the operators, are timed.
        limits: whether to measure what the machine can do. That needs the compiler, in a process of its own.
        rpc: address of the device's RPC server, as `RemoteRunner` takes it.
        tracker: address of a tracker, instead. Without either it is this machine that runs the library.

    Raises:
        ArtifactError: the file isn't a library of this pipeline, is damaged, or an older pipeline built it.
        TargetError: this machine can't run it.
        DeviceError: the device can't be reached, or can't run it.
        SampleError: an input is missing, unknown, or of the wrong shape or dtype.
        OptionError: there aren't as many CPUs as `threads`, `repeats` is below 1, or an address is wrong.
        BuildError: what measures the limits can't be built.
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
    """Return the remark on an operator of an int8 library that is computed in float32; empty for the others."""
    if not record.in_float:
        return ""
    reason = reasons.get(record.name)
    return f"Computed in float32: {reason}." if reason else "Computed in float32."


def _slow_note(record: OperatorRecord, seconds: float, limits: Limits) -> str:
    limit = limits.seconds(record.multiply_adds, record.moved_bytes, record.in_float)
    computing = record.multiply_adds / limits.peak(record.in_float)
    bound = "its multiply-adds" if computing == limit else f"moving {record.moved_bytes / 1e3:.1f} kB"
    return f"Takes {seconds * 1e6:.1f} us, {bound} could take {limit * 1e6:.1f} us."
