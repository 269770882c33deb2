"""Memory-bound kernels touch nothing outside their tensors, though their last vectors aren't masked."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.instruction_sets import runnable
from tests.kernels.tensors import every_vector_length

ROOT = Path(__file__).resolve().parents[2]


@every_vector_length
@pytest.mark.skipif(platform.system() != "Linux", reason="Pages are protected by Linux's mprotect")
def test_kernels_stay_inside_their_tensors(isa_name: str) -> None:
    runnable(isa_name)
    command = [sys.executable, "-m", "tests.kernels.guarded_examples", isa_name]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert process.returncode == 0, process.stderr
