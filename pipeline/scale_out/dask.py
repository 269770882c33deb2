"""The workers of a Dask cluster as an engine. Dask itself is an extra, and imported only when a cluster is used."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pipeline
from pipeline.compiler.portable import portable_code
from pipeline.errors import DeviceError, missing_extra
from pipeline.process_state import without_warnings
from pipeline.scale_out import worker
from pipeline.scale_out.engine import Engine, Item, Result, Runnable, Watched, Work
from pipeline.targets import load_target

AHEAD = 2
"""How many items are sent for each thread of the workers, so that none has to wait for the next one."""

CONNECT_SECONDS = 30
"""How long it may take until a cluster answers and has a worker."""


class DaskCluster(Engine):
    """Does work in the workers of a cluster. What a worker was doing when it died is done again by another.

    Args:
        client: is connected to the cluster.
        name: what messages call the cluster.
    """

    remote = True

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name
        self._requirements = requirements()

    def map(self, work: Work[Item, Result], programs: Sequence[Runnable], items: Iterable[Item]) -> Iterator[Result]:
        """See `Engine`."""
        job = worker.Job(uuid.uuid4().hex, self._requirements, tuple(map(_sent, programs)), work)
        held = self._submitted(worker.held, job)
        sent: deque[Any] = deque()
        try:
            for item in items:
                sent.append(self._submitted(worker.results, held, item))
                while len(sent) >= self._window():
                    yield from self._result(sent.popleft())
            while sent:
                yield from self._result(sent.popleft())
        finally:
            for future in (*sent, held):
                future.release()

    def run_everywhere(self, function: Callable[[], None]) -> None:
        """Call a function in every worker's process."""
        with reported_connection(self._name), reported_failures(self._name):
            self._client.run(function)

    def _submitted(self, function: Any, *arguments: Any) -> Any:
        # Programs and samples are large, and are sent once.
        with without_warnings("Sending large graph"):
            return self._client.submit(function, *arguments, pure=False)

    def _result(self, future: Any) -> Any:
        with reported_failures(self._name):
            return future.result()

    def _window(self) -> int:
        with reported_connection(self._name):
            threads: int = sum(self._client.nthreads().values())
        return max(1, AHEAD * threads)


def _sent(program: Runnable) -> worker.Sent:
    """Return a program as it is sent to workers."""
    if isinstance(program, Path):
        return worker.Sent(program.read_bytes())
    code = portable_code(program.program, program.tensors) if isinstance(program, Watched) else portable_code(program)
    return worker.Sent(code.library, code.outputs)


def requirements() -> worker.Requirements:
    """Return what workers need to compute what this machine computes."""
    target = load_target("host")
    return worker.Requirements(pipeline.__version__, target.architecture, target.required_features)


@contextmanager
def local_cluster(count: int) -> Iterator[DaskCluster]:
    """Yield an engine of so many processes of this machine, which end with the context.

    They accept connections from this machine only, and only such that know a key that is made for them.

    Raises:
        OptionError: Dask isn't installed.
        DeviceError: the processes can't be started.
    """
    # A worker that dies is replaced, and failures are errors.
    with _logged_from(logging.CRITICAL), _local_cluster(count) as engine:
        yield engine


@contextmanager
def _local_cluster(count: int) -> Iterator[DaskCluster]:
    module = import_distributed()
    name = f"the cluster of {count} local processes"
    try:
        with reported_connection(name):
            cluster = module.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                security=True,
                memory_limit=0,
                env={"TVM_NUM_THREADS": "1"},
                silence_logs=logging.CRITICAL,
            )
    except RuntimeError as error:
        raise DeviceError(
            f"{name[:1].upper()}{name[1:]} can't be started: {str(error).rstrip('.')}. Each process imports the script "
            'that starts it, so what the script does has to stand below `if __name__ == "__main__":`.'
        ) from error
    with cluster, _connected(cluster, name) as engine:
        engine.run_everywhere(worker.ignore_interrupts)
        yield engine


@contextmanager
def _logged_from(level: int) -> Iterator[None]:
    """Let Dask, whose scheduler logs every connection, log less as long as the context is."""
    import_distributed()
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in zip(loggers, before, strict=True):
            logger.setLevel(own)


@contextmanager
def named_cluster(address: str) -> Iterator[DaskCluster]:
    """Yield an engine of the workers of a cluster that runs already.

    Args:
        address: of its scheduler, such as tcp://host:8786. Dask's own configuration says how to connect by TLS.

    Raises:
        OptionError: Dask isn't installed.
        DeviceError: the cluster can't be reached, or has no workers.
        TargetError: a worker couldn't compute what this machine does.
    """
    with _logged_from(logging.WARNING), _connected(address, f"the cluster {address}") as engine:
        yield engine


@contextmanager
def _connected(cluster: Any, name: str) -> Iterator[DaskCluster]:
    module = import_distributed()
    with reported_connection(name):
        client = module.Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    with client:
        with reported_connection(name), reported_failures(name):
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            missing = client.run(requirements().missing)
        for address, lacked in missing.items():
            if lacked:
                raise worker.unfit(f"The worker {address} of {name}", lacked)
        yield DaskCluster(client, name)


def import_distributed() -> Any:
    """Return the module `distributed`.

    Raises:
        OptionError: it isn't installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise missing_extra("--workers and --cluster need Dask", "cluster") from error
    return distributed


@contextmanager
def reported_failures(name: str) -> Iterator[None]:
    """Turn what Dask raises in place of a result into errors of this package.

    Raises:
        DeviceError: workers die again and again, or the scheduler did, or this package isn't on a worker.
    """
    module = import_distributed()
    try:
        yield
    except module.scheduler.KilledWorker as error:
        raise DeviceError(
            f"Workers of {name} died one after the other with the same work, maybe for want of memory. Their own logs "
            "say more."
        ) from error
    except module.client.FutureCancelledError as error:
        raise DeviceError(f"The connection to {name} was lost: {error}.") from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pipeline":
            raise
        raise DeviceError(f"A worker of {name} has no onnx-int8-pipeline: install it there.") from error


@contextmanager
def reported_connection(name: str) -> Iterator[None]:
    """Turn failures to connect into errors of this package.

    Raises:
        DeviceError: the cluster can't be reached.
    """
    try:
        yield
    except (TimeoutError, OSError) as error:
        raise DeviceError(f"There is no connection to {name}: {str(error).rstrip('.')}. Is it running?") from error
