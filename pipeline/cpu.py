"""What the CPU of this machine can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


def architecture() -> str:
    """Return the machine's architecture as targets name it: `x86_64` or `aarch64` (or whatever the system says)."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


@functools.cache
def features() -> frozenset[str]:
    """Return the CPU's features, named as Linux does in /proc/cpuinfo; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
