"""Executes programs before and after a pass on the same random inputs, and compares their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi

from pipeline.compiler.execute import Executor
from pipeline.ir.program import Program
from pipeline.reference import execute

Array = npt.NDArray[Any]
Pass = Callable[[tvm.IRModule], tvm.IRModule]

INPUTS = 3
"""How many inputs each program is executed on."""


@dataclass(frozen=True)
class Example:
    """A program that a pass changes.

    Attributes:
        make: returns the program before the pass.
        tolerance: how far floats may be from one another, where a pass changes in what order they are summed or
            rounded. Integers have to be the same.
    """

    make: Callable[[], Program]
    tolerance: float = 0.0


def random_feeds(program: Program, seed: int) -> dict[str, Array]:
    """Return random inputs, with a few large values, so that quantized values saturate."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for spec in program.inputs:
        if spec.dtype == "float32":
            value = random.standard_normal(spec.shape)
            feeds[spec.name] = np.where(random.random(spec.shape) < 0.02, 50 * value, value).astype("float32")
        else:
            feeds[spec.name] = random.integers(0, 256 if spec.dtype == "uint8" else 5, spec.shape).astype(spec.dtype)
    return feeds


def run(program: Program, feeds: dict[str, Array]) -> dict[str, Array]:
    """Return a program's outputs, computed by NumPy, or compiled if an operator has no NumPy reference."""
    try:
        return execute(program, feeds)
    except NotImplementedError:
        return Executor(program).run(feeds)


def assert_changed(before: tvm.IRModule, after: tvm.IRModule) -> None:
    assert not tvm_ffi.structural_equal(before, after, map_free_vars=True), "the pass has left the program as it is"


def assert_same_values(before: Program, after: Program, tolerance: float = 0.0) -> None:
    """Assert that two programs compute the same outputs for random inputs, within `Example.tolerance`."""
    for seed in range(INPUTS):
        feeds = random_feeds(before, seed)
        assert_close(run(after, feeds), run(before, feeds), tolerance)


def assert_close(actual: dict[str, Array], expected: dict[str, Array], tolerance: float = 0.0) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (value.dtype, value.shape), name
        if tolerance and value.dtype == np.float32:
            largest = float(np.abs(value[np.isfinite(value)]).max(initial=1.0))
            np.testing.assert_allclose(actual[name], value, rtol=tolerance, atol=tolerance * largest, err_msg=name)
        else:
            np.testing.assert_array_equal(actual[name], value, err_msg=name)


def assert_sound(step: Pass, before: Program, tolerance: float = 0.0) -> None:
    """Assert that a pass changes a program, but not what it computes."""
    module = step(before.module)
    assert_changed(before.module, module)
    assert_same_values(before, replace(before, module=module), tolerance)
