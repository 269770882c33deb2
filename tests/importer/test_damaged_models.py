"""Whatever a model file contains, it is imported or refused in one sentence, within limits of memory and time."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.properties import chosen_seed, scaled


@pytest.mark.parametrize(("options", "number"), [([], 600), (["--whole"], 60)], ids=["read", "import"])
def test_damaged_models(options: list[str], number: int) -> None:
    command = [sys.executable, "-m", "tests.importer.damaged_models", "--seed", str(chosen_seed() or 0), *options]
    result = subprocess.run([*command, "--number", str(scaled(number))], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    # Some must be imported: otherwise the damage is too severe to test anything.
    assert re.fullmatch(r"\d+ refused, \d+ taken\n", result.stdout)
