"""Kernels of programs that run in this process are compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline import reference
from pipeline.compiler import execute, loaded_kernels
from pipeline.compiler.execute import Executor, shared_executor
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from tests.models import ModelBuilder, import_test_model


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Begin and end with no kernels, and return the names of those that are compiled."""
    names: list[str] = []
    register = loaded_kernels.register_function
    monkeypatch.setattr(loaded_kernels, "register_function", lambda name, f: (names.append(name), register(name, f)))
    forget_all()
    yield names
    forget_all()


def forget_all() -> None:
    """Forget all kernels, those of other tests as well: their names are the same wherever the kernels are."""
    for name in loaded_kernels._loaded:
        loaded_kernels.forget_function(name)
    loaded_kernels._loaded.clear()


def convolution(seed: int, channels: int = 4) -> Program:
    """Return a network with one convolution, whose weights the seed determines."""
    b, random = ModelBuilder(), np.random.default_rng(seed)
    weight = b.constant(random.standard_normal((channels, 3, 3, 3)).astype("float32"))
    return import_test_model(b.model({"x": [1, 3, 8, 8]}, b.node("Conv", "x", weight)))


def assert_right(executor: Executor, program: Program) -> None:
    x = np.random.default_rng(9).standard_normal((1, 3, 8, 8)).astype("float32")
    expected = reference.execute(program, {"x": x})
    for name, value in executor.run({"x": x}).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_programs_that_differ_in_their_weights_share_kernels(compiled: list[str]) -> None:
    first, second = convolution(0), convolution(1)
    Executor(first)
    before = list(compiled)
    assert_right(Executor(second), second)
    assert compiled == before != []


def test_kernels_of_the_same_kind_that_differ_are_not_mixed_up() -> None:
    programs = [convolution(0, channels) for channels in (4, 5, 4)]
    for program, executor in zip(programs, [Executor(p) for p in programs], strict=True):
        assert_right(executor, program)


def test_kernels_that_were_forgotten_can_still_be_called_and_are_compiled_again(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_kernels, "MOST", 1)
    first, second = convolution(0, 4), convolution(0, 5)
    executor = Executor(first)
    Executor(second)
    assert_right(executor, first)
    before = len(compiled)
    assert_right(Executor(first), first)
    assert len(compiled) > before


def test_a_program_is_compiled_once_for_all_that_ask_for_less() -> None:
    program = convolution(0)
    tensors = [b.var.name for b in Dataflow.of(program.module).bindings if b.operator == "nn.conv2d"]
    executor = shared_executor(program, tensors)
    assert shared_executor(program) is shared_executor(replace(program, name="another"), tensors) is executor
    assert shared_executor(convolution(0)) is not executor
    x = np.random.default_rng(9).standard_normal((1, 3, 8, 8)).astype("float32")
    values = {str(var.name): value for var, value in reference.execute_all(program, {"x": x}).items()}
    for name, value in executor.tensors({"x": x}, tensors).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-4, atol=1e-5)
    assert_right(executor, program)


def test_kernels_that_llvm_optimizes_less_compute_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    program = convolution(0)
    x = np.random.default_rng(9).standard_normal((1, 3, 8, 8)).astype("float32")
    (found,) = Executor(program).run({"x": x}).values()
    monkeypatch.setattr(execute, "OPTIMIZATION_LEVEL", 3)
    (expected,) = Executor(program).run({"x": x}).values()
    np.testing.assert_array_equal(found, expected, strict=True)
