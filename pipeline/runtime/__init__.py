"""Runs libraries, on this machine or on a device over RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runtime.library_runner import LibraryRunner


@contextlib.contextmanager
def open_runner(library: Path, threads: int | None, rpc: str | None, tracker: str | None) -> Iterator[LibraryRunner]:
    """Open a runner for a library, on this machine or on a device, and close it after the block.

    Args:
        library: the library.
        threads: how many threads one run may use; None leaves it to the runner.
        rpc: address of the device's RPC server, as `RemoteRunner` takes it.
        tracker: address of a tracker, as `RemoteRunner` takes it. With neither address, this machine runs the library.

    Raises:
        PipelineError: see `Runner` and `RemoteRunner`; an OptionError if both `rpc` and `tracker` are given.
    """
    if rpc is None and tracker is None:
        from pipeline.runtime.local import Runner

        yield Runner(library, threads)
        return
    from pipeline.runtime.rpc import RemoteRunner

    with RemoteRunner(library, rpc=rpc, tracker=tracker, num_threads=threads) as runner:
        yield runner
