"""What happens in the workers' processes.

Each of a worker's threads has the programs for itself and runs them on one CPU, as a worker has as many threads as it
is to use CPUs.
"""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline.cpu import LIMIT_VARIABLE, missing_features
from pipeline.errors import TargetError
from pipeline.runtime.local import Runner
from pipeline.scale_out.engine import Array, Run, Work

JOBS = 4
"""How many jobs' programs a thread keeps."""

_thread = threading.local()


@dataclass(frozen=True)
class Requirements:
    """What a worker needs so that it computes what the machine computes that sends the work.

    Attributes:
        version: of this package.
        architecture: of the CPU.
        features: of the CPU, as in /proc/cpuinfo.
    """

    version: str
    architecture: str
    features: tuple[str, ...]

    def missing(self) -> str:
        """Return what this process lacks, as a clause of a sentence with the worker as its subject; "" for nothing."""
        if pipeline.__version__ != self.version:
            return f"has version {pipeline.__version__} of onnx-int8-pipeline, and this machine {self.version}"
        missing = missing_features(self.architecture, self.features)
        return f"lacks {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Sent:
    """A program.

    Attributes:
        library: see `compiler.portable`.
        outputs: names of the values that are wanted, and of the library's outputs that these are; None means that its
            outputs are wanted, as they are called there.
    """

    library: bytes
    outputs: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Job:
    """Work and its programs.

    Attributes:
        token: names the job.
        requirements: of the programs.
        programs: what to run.
        work: what to do with each item.
    """

    token: str
    requirements: Requirements
    programs: tuple[Sent, ...]
    work: Work[Any, Any]


def ignore_interrupts() -> None:
    """Let this process ignore Ctrl-C, which a terminal sends to all processes of a command: the first one ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def held(job: Job) -> Job:
    """Return a job: the task that all others need, so that the cluster sends the job to each worker once."""
    return job


def results(job: Job, item: Any) -> tuple[Any, ...]:
    """Return all results of a job's work for an item."""
    return tuple(job.work(_runs(job), item))


def _runs(job: Job) -> Sequence[Run]:
    """Return what runs a job's programs, which are loaded when this thread does its first item of the job."""
    loaded: dict[str, Sequence[Run]] = _thread.__dict__.setdefault("loaded", {})
    if job.token not in loaded:
        if lacked := job.requirements.missing():
            raise unfit("A worker", lacked)
        loaded[job.token] = [_loaded(program) for program in job.programs]
        while len(loaded) > JOBS:
            del loaded[next(iter(loaded))]
    return loaded[job.token]


def unfit(who: str, lacked: str) -> TargetError:
    """Return the error for a worker that couldn't compute what this machine does.

    Args:
        who: the worker, as the beginning of a sentence.
        lacked: see `Requirements.missing`.
    """
    return TargetError(
        f"{who} {lacked}. Workers run the code of the machine that sends them work, so that float results are the same "
        "to the last bit. Leave that worker out, or limit the code to what all of them can run, for example: "
        f"{LIMIT_VARIABLE}=avx2."
    )


def _loaded(program: Sent) -> Run:
    with tempfile.TemporaryDirectory(prefix="pipeline-worker-") as folder:
        path = Path(folder) / "program.so"
        path.write_bytes(program.library)
        run = Runner(path, num_threads=1).run
    names = program.outputs
    if names is None:
        return run

    def run_for_names(feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = run(feeds)
        return {name: found[own] for name, own in names.items()}

    return run_for_names
