"""Libraries to deploy, and an arm64 machine to deploy to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.emulation import SYSROOT_VARIABLE, Aarch64Python, why_missing
from tests.runtime.models import quantized_model

LibraryFor = Callable[[str], Path]


@pytest.fixture(scope="session")
def library_for(tmp_path_factory: pytest.TempPathFactory) -> LibraryFor:
    """A function that returns the small int8 model as a library for a target, built once."""
    folder = tmp_path_factory.mktemp("libraries")

    def build(target: str) -> Path:
        path = folder / f"{target}.so"
        return path if path.exists() else quantized_model().build(target, path)

    return build


@pytest.fixture(scope="session")
def library(library_for: LibraryFor) -> Path:
    """The small int8 model, built for this machine."""
    return library_for("host")


@pytest.fixture(scope="session")
def aarch64_python(tmp_path_factory: pytest.TempPathFactory) -> Aarch64Python:
    """An emulated arm64 Python; tests that use it are skipped if there is none."""
    if reason := why_missing():
        pytest.skip(reason)
    return Aarch64Python(Path(os.environ[SYSROOT_VARIABLE]).resolve(), tmp_path_factory.mktemp("aarch64"))
