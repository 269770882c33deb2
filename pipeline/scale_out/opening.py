"""Opens the engine that options ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pipeline.config.options import ScaleOutOptions
from pipeline.scale_out.engine import Engine, ThisProcess

_open: ContextVar[tuple[ScaleOutOptions, Engine] | None] = ContextVar("_open", default=None)
"""The engine that is open, with the options that it was opened for."""


@contextmanager
def engine_for(options: ScaleOutOptions) -> Iterator[Engine]:
    """Yield the engine that options ask for, open as long as the context is.

    Within the context, the same options give the same engine: a command that calibrates, measures, and calibrates again
    opens it once, around all of that.

    Raises:
        OptionError: an engine is asked for that isn't installed.
        DeviceError: workers can't be reached or started.
        TargetError: a worker couldn't compute what this machine does.
    """
    if options.workers is None and options.cluster is None:
        yield ThisProcess()
        return
    already = _open.get()
    if already is not None and already[0] == options:
        yield already[1]
        return
    # Only here: most never use a cluster.
    from pipeline.scale_out.dask import local_cluster, named_cluster

    opened = local_cluster(options.workers) if options.workers is not None else named_cluster(options.cluster or "")
    with opened as engine:
        token = _open.set((options, engine))
        try:
            yield engine
        finally:
            _open.reset(token)
