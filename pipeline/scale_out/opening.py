"""Opens the engine that options ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.options import ScaleOutOptions
from pipeline.scale_out.engine import Engine, ThisProcess


@contextmanager
def engine_for(options: ScaleOutOptions) -> Iterator[Engine]:
    """Yield the engine that options ask for, open as long as the context is.

    Raises:
        OptionError: an engine is asked for that isn't installed.
        DeviceError: workers can't be reached or started.
        TargetError: a worker couldn't compute what this machine does.
    """
    if options.workers is None and options.cluster is None:
        yield ThisProcess()
        return
    # Only here: most never use a cluster.
    from pipeline.scale_out.dask import local_cluster, named_cluster

    opened = local_cluster(options.workers) if options.workers is not None else named_cluster(options.cluster or "")
    with opened as engine:
        yield engine
