"""Writes the compiler's intermediate results to files, for people who want to read them."""

from __future__ import annotations

from pathlib import Path

import tvm

from pipeline.errors import OptionError
from pipeline.files import write_text


class Dump:
    """Writes the program after each phase as NN-phase.py, and the assembly.

    Args:
        folder: where to write; made if it doesn't exist.

    Raises:
        OptionError: the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"The dump folder {folder} can't be made: {error.strerror}.") from error
        self._folder = folder
        self._count = 0

    def __call__(self, phase: str, module: tvm.IRModule) -> None:
        """Write the program after a phase."""
        write_text(self._folder / f"{self._count:02d}-{phase}.py", module.script(show_meta=False) + "\n")
        self._count += 1

    def assembly(self, text: str) -> None:
        """Write the machine code as kernels.s."""
        write_text(self._folder / "kernels.s", text)
