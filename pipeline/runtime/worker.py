"""One thread that makes all calls into a library or a session, in order."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

_Answer: TypeAlias = "queue.SimpleQueue[tuple[Any, BaseException | None]]"
"""Takes what a function returns, or raises. concurrent.futures has more to offer, and takes longer to import."""


class Worker:
    """A thread that runs functions one after another, for callers in any thread.

    TVM's runtime keeps its thread pool per calling thread and binds that thread to CPUs, so a runner has a thread of
    its own. It also can't interrupt a call that waits for a device; here the caller goes on, and the thread, which
    doesn't keep the process alive, is left waiting.
    """

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], _Answer] | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True).start()

    @property
    def is_in_this_process(self) -> bool:
        """Whether the thread is one of this process; a process that was forked has none of its parent's."""
        return self._process == os.getpid()

    def call(self, function: Callable[[], T], timeout: float | None = None) -> T:
        """Return what `function` returns, or raise what it raises.

        Args:
            function: what to run in the thread.
            timeout: seconds to wait, earlier calls included; None waits for ever.

        Raises:
            TimeoutError: the call hasn't ended in time. It goes on, and so do those after it when it ends.
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
            # The error's traceback holds this frame: without the reference back, it goes when its handler is done.
            del error, answer

    def post(self, function: Callable[[], None]) -> None:
        """Run `function` in the thread after the calls that were made before, without waiting."""
        self._tasks.put((function, queue.SimpleQueue()))

    def close(self) -> None:
        """End the thread after the calls that were made before."""
        self._tasks.put(None)


def _work(tasks: queue.SimpleQueue[tuple[Callable[[], Any], _Answer] | None]) -> None:
    while (task := tasks.get()) is not None:
        function, answer = task
        try:
            answer.put((function(), None))
        except BaseException as error:
            # Belongs to the caller.
            answer.put((None, error))
        del task, function, answer
