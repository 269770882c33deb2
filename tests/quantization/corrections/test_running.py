"""Operators and programs give the same, whether NumPy computes them or they are compiled."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.options import AnnotateOptions, CalibrateOptions
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.corrections import running
from pipeline.quantization.steps import Annotate, Calibrate, Realize, run
from pipeline.reference import execute, execute_all
from tests.models import import_test_model, small_network

random = np.random.default_rng(0)
SAMPLES = [random.standard_normal((1, 3, 12, 12)).astype("float32") for _ in range(3)]


@pytest.fixture(scope="module")
def int8_program() -> Program:
    program = import_test_model(small_network())
    return run(program, [Annotate(AnnotateOptions()), Calibrate(SAMPLES, CalibrateOptions()), Realize()]).program


def test_compiled_operators_give_the_same_bytes(int8_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    name = int8_program.inputs[0].name
    values = [execute_all(int8_program, {name: x}) for x in SAMPLES]
    integers = [b for b in Dataflow.of(int8_program.module).bindings if b.operator.startswith("qnn.")]
    monkeypatch.setattr(running, "PRODUCTS_ALONE", 0)
    for binding in integers:
        for own, found in zip(values, running.evaluate_all(binding, values), strict=True):
            np.testing.assert_array_equal(found, own[binding.var], strict=True)
    assert len(integers) > 3


@pytest.mark.parametrize("products", [0, 10**9], ids=["compiled", "in NumPy"])
def test_programs_give_the_same(int8_program: Program, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PRODUCTS", products)
    found = running.runner(int8_program, len(SAMPLES))
    for x in SAMPLES:
        feed = {int8_program.inputs[0].name: x}
        for name, value in execute(int8_program, feed).items():
            np.testing.assert_allclose(found(feed)[name], value, rtol=1e-6)
