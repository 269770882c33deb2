"""Memory of this process."""

from __future__ import annotations

import ctypes


def release_memory() -> None:
    """Give memory that is free back to the system, where the C library can do that (glibc can).

    Importing and compiling take a hundred megabytes for a moment, in small pieces. Free, these stay with the process,
    and as large arrays don't fit in them, they add to all that comes later.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
