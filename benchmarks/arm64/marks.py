"""Marks for the plugin that counts instructions; see counter.c. Used by what runs under emulation: no dependencies."""

from __future__ import annotations

import ctypes

_GETPPID = 173
_MAGIC = 0x6D61726B


def mark() -> None:
    """Begin to count anew."""
    _call(0)


def mark_calls_of(address: int) -> None:
    """Make each call of the function at an address a mark; it must not have run before."""
    _call(address)


def _call(address: int) -> None:
    ctypes.CDLL(None).syscall(ctypes.c_long(_GETPPID), ctypes.c_long(_MAGIC), ctypes.c_long(address))
