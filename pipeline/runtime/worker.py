"""A thread that makes all calls into a library, or into a session with a device, in order."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_Answer: TypeAlias = "queue.SimpleQueue[tuple[Any, BaseException | None]]"
"""A queue for the result of a function, or its exception. concurrent.futures would take longer to import."""


class Worker:
    """A thread that runs functions one after another, for callers in any thread.

    There are two reasons for it. TVM's runtime has a thread pool for each calling thread, which it binds to CPUs; so a
    runner has a thread of its own, and the caller's isn't bound. And TVM can't interrupt a call that waits for a
    device; with a thread of its own for the call, the caller can go on after a timeout. The thread doesn't keep the
    process alive.
    """

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], _Answer] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_in_this_process(self) -> bool:
        """Whether the thread belongs to this process. A forked process doesn't have its parent's threads."""
        return self._process == os.getpid()

    def call(self, function: Callable[[], T], timeout: float | None = None) -> T:
        """Run a function in the thread, and return what it returns or raise what it raises.

        Args:
            function: what to run.
            timeout: how many seconds to wait, for earlier calls, too; None means without limit.

        Raises:
            TimeoutError: the function hasn't ended in time. It still goes on, and later calls run after it.
        """
        answer: _Answer = queue.SimpleQueue()
        self._tasks.put((function, answer))
        try:
            result, error = answer.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no answer within {timeout:g} seconds") from None
        if error is None:
            value: T = result
            return value
        try:
            raise error
        finally:
            # The traceback refers to this frame, so a reference from the frame to the error would be a cycle, and the
            # error would live on after it has been handled.
            del error, answer

    def post(self, function: Callable[[], None]) -> None:
        """Run a function in the thread after all earlier calls, without waiting for it."""
        self._tasks.put((function, queue.SimpleQueue()))

    def close(self) -> None:
        """End the thread after all earlier calls."""
        self._tasks.put(None)

    def has_ended(self, timeout: float) -> bool:
        """Return whether the thread has ended, waiting so many seconds at most; see `close`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def _work(tasks: queue.SimpleQueue[tuple[Callable[[], Any], _Answer] | None]) -> None:
    while (task := tasks.get()) is not None:
        function, answer = task
        try:
            answer.put((function(), None))
        except BaseException as error:
            # Raised again in the caller's thread.
            answer.put((None, error))
        del task, function, answer
