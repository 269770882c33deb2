"""Kernels that differ in numbers only become one function, and compute what they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from pipeline.compiler.build import compile_program
from pipeline.compiler.execute import Executor
from pipeline.compiler.kernel_passes import compile_functions
from pipeline.compiler.shared_code import with_shared_code
from pipeline.ir.program import Program
from pipeline.ir.tvm_private.relax import hash_of
from pipeline.kernels.lib.vectors import span
from pipeline.library.metadata import read_metadata
from pipeline.profiling import profile
from pipeline.reference import execute
from pipeline.targets import load_target
from tests.compiler.test_select_kernels import kernels
from tests.models import ModelBuilder, import_test_model
from tests.passes.execution import random_feeds


def scaled(first: int, second: int, shift: int = 3, factor: float = 2.5) -> tirx.PrimFunc:
    """Return a function of four values that contains these numbers."""
    with IRBuilder() as builder, T.prim_func():
        x, y = (T.arg(name, T.buffer((4,), dtype)) for name, dtype in (("x", "int32"), ("y", "float32")))
        one, other, bits = (T.broadcast(T.int32(number), 4) for number in (first, second, shift))
        values = T.cast(T.shift_right(x[span(0, 4)] * one + other, bits), "float32x4")
        T.buffer_store(y, values * T.broadcast(T.float32(factor), 4), [span(0, 4)])
    return builder.get()


def shared(*functions: tirx.PrimFunc) -> list[tuple[tirx.PrimFunc, list[float]]]:
    results = with_shared_code([("name", function) for function in functions])
    return [(function, [number.value for number in numbers]) for function, numbers in results]


def test_numbers_that_differ_become_arguments_and_functions_compute_what_they_did() -> None:
    numbers: list[Sequence[float]] = [(100, 20, 3, 2.5), (7, -20, 3, 0.3), (-9, 33, 3, 1e6)]
    results = shared(*(scaled(*each) for each in numbers))
    assert len({hash_of(function) for function, _ in results}) == 1
    compiled = compile_functions({"shared": results[0][0]}, tvm.target.Target("llvm"))["shared"]
    x = np.array([1, -2, 300, 4], "int32")
    for (first, second, shift, factor), (_, values) in zip(numbers, results, strict=True):
        assert values == [first, second, np.float32(factor).view("int32")]
        y = tvm.runtime.tensor(np.zeros(4, "float32"))
        compiled(tvm.runtime.tensor(x), *values, y)
        np.testing.assert_array_equal(y.numpy(), (x * first + second >> shift).astype("float32") * np.float32(factor))


def test_numbers_that_functions_have_in_common_stay_constants() -> None:
    assert [values for _, values in shared(scaled(100, 20), scaled(7, 20))] == [[100], [7]]


def test_numbers_that_are_the_same_in_every_function_are_one_argument() -> None:
    assert [values for _, values in shared(scaled(100, 100), scaled(7, 7))] == [[100], [7]]
    assert [values for _, values in shared(scaled(100, 100), scaled(7, 8))] == [[100, 100], [7, 8]]


@pytest.mark.parametrize(
    "other", [scaled(100, 20, shift=5), scaled(1, 20), scaled(100, 0), scaled(100, 2**31 - 1), scaled(100, 20, 3, 1.0)]
)
def test_what_decides_about_instructions_stays_a_constant(other: tirx.PrimFunc) -> None:
    function = scaled(100, 20)
    (one, _), (two, _) = shared(function, other)
    assert one.same_as(function)
    assert two.same_as(other)


def test_only_functions_of_the_same_name_are_compared() -> None:
    functions = scaled(100, 20), scaled(7, 20)
    assert [f for f, _ in with_shared_code([("one", functions[0]), ("two", functions[1])])] == list(functions)


def layers_that_differ_in_their_bounds() -> Program:
    b, random = ModelBuilder(), np.random.default_rng(0)
    y = "x"
    for least, largest in ((-0.5, 0.25), (-0.75, 0.5)):
        weight = b.constant(random.standard_normal((8, 8, 1, 1)).astype("float32"))
        bounds = (b.constant(np.float32(bound)) for bound in (least, largest))
        y = b.node("Clip", b.node("Conv", y, weight), *bounds)
    return import_test_model(b.model({"x": [1, 8, 6, 6]}, y))


def test_layers_that_differ_in_their_bounds_share_a_kernel() -> None:
    program = layers_that_differ_in_their_bounds()
    assert kernels(program) == ["conv2d_f32_1x1_8x8__avx2"]
    feed = random_feeds(program, 0)
    (found,), (expected,) = Executor(program).run(feed).values(), execute(program, feed).values()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_library_calls_nothing_else_for_numbers_that_are_arguments(tmp_path: Path) -> None:
    path = compile_program(layers_that_differ_in_their_bounds(), load_target("host"), tmp_path / "bounds.so")
    assert [o.kernel for o in profile(path, limits=False, repeats=1).operators] == [
        o.kernel for o in read_metadata(path).operators
    ]
