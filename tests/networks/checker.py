"""A process of its own that checks networks: one that kills it or hangs doesn't keep the next from being checked."""

from __future__ import annotations

import multiprocessing
import traceback
from multiprocessing.connection import Connection

from pipeline.errors import PipelineError
from tests.networks.check import check
from tests.networks.generate import random_network

FAILURES = ("wrong", "crashed", "died", "hung")


class Checker:
    """The process, which is started anew when it has died or hangs.

    Args:
        seconds: after which a network counts as hung.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start()

    def check(self, seed: int, steps: int | None, way: str) -> tuple[str, str]:
        """Return how it went, "right", "refused" or one of `FAILURES`, and more about it."""
        self._connection.send((seed, steps, way))
        hung = not self._connection.poll(self._seconds)
        try:
            if not hung:
                outcome: tuple[str, str] = self._connection.recv()
                return outcome
        except (EOFError, ConnectionError):
            pass
        self.close()
        code = self._process.exitcode
        self._start()
        return ("hung", f"more than {self._seconds} s") if hung else ("died", f"exit code {code}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()


def _serve(connection: Connection) -> None:
    while True:
        seed, steps, way = connection.recv()
        connection.send(_check(seed, steps, way))


def _check(seed: int, steps: int | None, way: str) -> tuple[str, str]:
    try:
        return "right", str(check(random_network(seed, steps), way))
    except PipelineError as error:
        return "refused", str(error)
    except AssertionError as error:
        return "wrong", " | ".join(str(error).split("\n", 5)[:5])
    except Exception:
        # Whatever it is, the next network is checked.
        return "crashed", traceback.format_exc()
