"""Where the data files that ship with the package are: in the wheel, or in a checkout."""

from __future__ import annotations

from pathlib import Path


def data_directory(kind: str) -> Path:
    """Return the folder of shipped data files.

    Args:
        kind: `targets` or `models`.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_data" / kind
    return installed if installed.is_dir() else package.parent / kind
