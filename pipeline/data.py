"""Finds the folders of data files, such as `targets` and `models`, that belong to the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_directory(name: str) -> Path:
    """Return a folder of data files: of the installed package, or of the repository in an editable installation.

    Args:
        name: the folder's name, for example "targets".

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"The folder of {name} is missing from the installation at {_PACKAGE}")
