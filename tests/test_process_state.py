"""Warnings of other packages are hidden in a block, and only there, whatever other threads do."""

from __future__ import annotations

import threading
import warnings

import pytest

from pipeline.process_state import without_warnings


def test_warnings_are_hidden_in_the_block_only() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with without_warnings():
            warnings.warn("hidden", stacklevel=1)
        with without_warnings("hid"):
            warnings.warn("hidden", stacklevel=1)
            with pytest.raises(UserWarning, match="shown"):
                warnings.warn("shown", stacklevel=1)
        with pytest.raises(UserWarning, match="shown"):
            warnings.warn("shown", stacklevel=1)


def test_blocks_of_several_threads_leave_the_filters_as_they_were() -> None:
    before, inside, done = list(warnings.filters), threading.Event(), threading.Event()

    def first() -> None:
        with without_warnings():
            inside.set()
            # Ends while the other thread would be in its block, if it could be.
            done.wait(0.2)

    def second() -> None:
        inside.wait()
        with without_warnings():
            pass
        done.set()

    threads = [threading.Thread(target=t) for t in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
