"""Deploy: run libraries, here or on a device over RPC."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runtime.rpc import RemoteRunner
    from pipeline.runtime.runner import Runner


@contextlib.contextmanager
def open_runner(
    library: Path, threads: int | None, rpc: str | None, tracker: str | None
) -> Iterator[Runner | RemoteRunner]:
    """Give the block a runner for a library: on this machine, or on a device; see `RemoteRunner`.

    Raises:
        OptionError: both `rpc` and `tracker` are given.
    """
    if rpc is None and tracker is None:
        from pipeline.runtime.runner import Runner

        yield Runner(library, threads)
        return
    from pipeline.runtime.rpc import RemoteRunner

    with RemoteRunner(library, rpc=rpc, tracker=tracker, num_threads=threads) as runner:
        yield runner
