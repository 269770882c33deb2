"""A wrong kernel fails its test, though kernels are checked together; overruns on the emulated CPU are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.ops import QLookup
from tests.kernels.execution import Call, execute_emulated
from tests.kernels.harness import collected_checks
from tests.kernels.instruction_sets import compile_target
from tests.kernels.tensors import assert_exact
from tests.runtime.emulation import why_missing

ROOT = Path(__file__).resolve().parents[2]

X, TABLE = np.arange(5, dtype="uint8"), np.arange(256, dtype="uint8")[::-1].copy()
RIGHT = TABLE[X]


def test_collected_checks_are_made_later() -> None:
    with collected_checks() as checks:
        assert_exact("portable", QLookup(), X, TABLE, expected=RIGHT)
        assert_exact("portable", QLookup(), X, TABLE, expected=RIGHT + 1)
        assert_exact("portable", QLookup(), X, TABLE, expected=RIGHT + 2)
    with pytest.raises(AssertionError, match=r"QLookup.*\non uint8\[5\], uint8\[256\], portable:") as failure:
        checks.make()
    assert str(failure.value).count("QLookup") == 2


PROPERTY = """
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ops import QLookup
from tests.kernels.tensors import assert_exact

TABLE = np.arange(256, dtype="uint8")


@given(length=st.integers(1, 40))
def test_shorter_than_seven(length: int) -> None:
    x = np.zeros(length, "uint8")
    assert_exact("portable", QLookup(), x, TABLE, expected=x if length < 7 else x + 1)
"""


def test_hypothesis_shows_the_smallest_example_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "test_property.py"
    path.write_text(PROPERTY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "tests.kernels.conftest", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == pytest.ExitCode.TESTS_FAILED, process.stdout
    assert "length=7," in process.stdout


def copy(length: int, extra: int) -> Call:
    """Return a call that copies a tensor, and also what is `extra` bytes behind it."""
    with IRBuilder() as builder, T.prim_func():
        x, y = T.arg("x", T.buffer((length,), "uint8")), T.arg("y", T.buffer((length + extra,), "uint8"))
        with T.serial(length + extra) as i:
            T.buffer_store(y, x[i], [i])
    return Call(builder.get(), (np.ones(length, "uint8"), np.zeros(length + extra, "uint8")))


@pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))
def test_an_overrun_ends_the_emulated_machine_and_another_takes_its_place() -> None:
    target = compile_target("neon")
    with pytest.raises(AssertionError, match="The emulated machine ended with -11"):
        execute_emulated([copy(64, extra=1)], target)
    (copied,) = execute_emulated([copy(64, extra=0)], target)
    np.testing.assert_array_equal(copied, np.ones(64, "uint8"))
