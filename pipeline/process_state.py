"""What belongs to the process, and so to one thread at a time: TVM's stack of builders, and filters of warnings."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_building = threading.RLock()
_filtering = threading.RLock()


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that is called by one thread at a time, with all others that this was called for.

    TVM keeps programs that are being built on a stack of the process, not of the thread: two threads that make programs
    at once would find each other's. Whatever makes programs for users is such a function; threads that call them wait
    for one another.
    """

    @functools.wraps(function)
    def called(*arguments: P.args, **keys: P.kwargs) -> R:
        with _building:
            return function(*arguments, **keys)

    return called


@contextmanager
def without_warnings(beginning: str = "") -> Iterator[None]:
    """Ignore warnings in the block.

    Two threads that change filters and restore them in turns could leave those of the block behind for good, so only
    one thread at a time is in such a block.

    Args:
        beginning: how the messages of the warnings begin; "" means all.
    """
    with _filtering, warnings.catch_warnings():
        warnings.filterwarnings("ignore", beginning)
        yield
