"""Every quantized tensor of a compiled program has the bytes that the NumPy reference gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.api import load, quantize
from pipeline.compilation.execute import Executor
from pipeline.dialect.dataflow import Dataflow, DataflowBuilder
from pipeline.dialect.operators import tensor_type
from pipeline.program import Program, TensorSpec
from pipeline.recipes import load_recipe, prepare
from pipeline.reference.execute import execute
from tests.models import import_test_model, small_network
from tests.properties import examples


def with_every_code(program: Program) -> Program:
    """Return the program with all its uint8 tensors as outputs."""
    flow = Dataflow.of(program.module)
    codes = [b.var for b in flow.bindings if tensor_type(b.var).dtype == "uint8"]
    builder = DataflowBuilder(program.module)
    for binding in flow.bindings:
        builder.copy(binding)
    module = builder.finish([builder.replaced(c) for c in codes])
    outputs = tuple(TensorSpec(f"{i}:{c.name}", tensor_type(c).shape, "uint8") for i, c in enumerate(codes))
    return replace(program, module=module, outputs=outputs)


def assert_bit_exact(program: Program, feeds: dict[str, np.ndarray]) -> None:
    observed = with_every_code(program)
    expected, actual = execute(observed, feeds), Executor(observed).run(feeds)
    assert len(expected) > 1
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@given(st.integers(0, 10_000), st.integers(6, 20), st.booleans())
@examples(6)
def test_random_networks(seed: int, size: int, symmetric: bool) -> None:
    program = import_test_model(small_network(seed, size))
    random = np.random.default_rng(seed)
    samples = [random.standard_normal((1, 3, size, size)).astype("float32") for _ in range(3)]
    quantized = quantize(program, samples[:2], symmetric=symmetric)
    assert_bit_exact(quantized.program, {"x": samples[2]})


@pytest.mark.parametrize("name", ["digits", "text-direction", "efficientnet-lite0"])
def test_real_models(name: str) -> None:
    prepared = prepare(load_recipe(name))
    program = load(prepared.model, prepared.shapes)
    quantized = quantize(program, prepared.calibration, batch_nums=4)
    assert_bit_exact(quantized.program, next(prepared.evaluation()).feeds)
