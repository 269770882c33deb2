"""Run libraries, here or on a device over RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runtime.library_runner import LibraryRunner


@contextlib.contextmanager
def open_runner(library: Path, threads: int | None, rpc: str | None, tracker: str | None) -> Iterator[LibraryRunner]:
    """Give the block a runner for a library: on this machine, or on a device; see `RemoteRunner`.

    Raises:
        OptionError: both `rpc` and `tracker` are given.
    """
    if rpc is None and tracker is None:
        from pipeline.runtime.local import Runner

        yield Runner(library, threads)
        return
    from pipeline.runtime.rpc import RemoteRunner

    with RemoteRunner(library, rpc=rpc, tracker=tracker, num_threads=threads) as runner:
        yield runner
