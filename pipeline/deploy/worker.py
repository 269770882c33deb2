"""One thread that makes all calls into a library or a session, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread that runs functions one after another, for callers in any thread.

    TVM's runtime keeps its thread pool per calling thread and binds that thread to CPUs, so a runner has a thread of
    its own. It also can't interrupt a call that waits for a device; here the caller goes on, and the thread, which
    doesn't keep the process alive, is left waiting.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()

    def call(self, function: Callable[[], T], timeout: float | None = None) -> T:
        """Return what `function` returns, or raise what it raises.

        Args:
            function: what to run in the thread.
            timeout: seconds to wait, earlier calls included; None waits for ever.

        Raises:
            TimeoutError: the call hasn't ended in time. It goes on, and so do those after it when it ends.
        """
        future: Future[T] = Future()
        self._tasks.put((function, future))
        try:
            return future.result(timeout)
        except FutureTimeoutError as error:
            if future.done():
                raise
            raise TimeoutError(f"no answer within {timeout:g} seconds") from error

    def post(self, function: Callable[[], None]) -> None:
        """Run `function` in the thread after the calls that were made before, without waiting."""
        self._tasks.put((function, Future()))

    def close(self) -> None:
        """End the thread after the calls that were made before."""
        self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]) -> None:
    while (task := tasks.get()) is not None:
        function, future = task
        try:
            future.set_result(function())
        except BaseException as error:
            # Belongs to the caller, who gets it from the future.
            future.set_exception(error)
        del task, function, future
