"""Kernels touch nothing outside their tensors, though their last vectors aren't masked."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.examples import examples_for
from tests.kernels.execution import execute_emulated
from tests.kernels.instruction_sets import runnable
from tests.kernels.tensors import assert_close

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="Pages are protected by Linux's mprotect")

ROOT = Path(__file__).resolve().parents[2]


def _run(what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.kernels.run_guarded", what]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)


def test_kernels_stay_inside_their_tensors(isa_name: str) -> None:
    machine = runnable(isa_name)
    if machine.execute is execute_emulated:
        # There, all tensors end before a page without access.
        for example in examples_for(machine.isa).values():
            arguments, activations = example.arguments, example.activations
            assert_close(isa_name, example.operator, *arguments, activations=activations, rtol=example.rtol)
    else:
        process = _run(isa_name)
        assert process.returncode == 0, process.stderr


def test_guard_pages_catch_an_overrun_of_one_byte() -> None:
    assert _run("overrun").returncode == -signal.SIGSEGV
