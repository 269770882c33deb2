"""Every quantized tensor of a compiled program has the bytes that the NumPy reference gives it.

All of them are outputs here, so that a kernel that is wrong is found where it is. But what is an output can't become
part of another operator: programs as they ship, with all that is fused in them, are compared in `test_shipped`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.api import quantize
from pipeline.compiler.execute import Executor
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Dataflow, DataflowBuilder
from pipeline.ir.program import Program, TensorSpec
from pipeline.ir.types import QUANTIZED_LIMITS
from pipeline.reference import execute
from tests.models import import_test_model, small_network
from tests.pipeline import real_models
from tests.properties import examples


def with_every_quantized_tensor(program: Program) -> Program:
    """Return the program with all its quantized tensors as outputs."""
    flow = Dataflow.of(program.module)
    tensors = [b.var for b in flow.bindings if tensor_type(b.var).dtype in QUANTIZED_LIMITS]
    builder = DataflowBuilder(program.module)
    for binding in flow.bindings:
        builder.copy(binding)
    module = builder.finish([builder.replaced(t) for t in tensors])
    types = [tensor_type(t) for t in tensors]
    names = [f"{i}:{t.name}" for i, t in enumerate(tensors)]
    outputs = tuple(TensorSpec(name, t.shape, t.dtype) for name, t in zip(names, types, strict=True))
    return replace(program, module=module, outputs=outputs)


def assert_bit_exact(program: Program, feeds: dict[str, np.ndarray]) -> None:
    observed = with_every_quantized_tensor(program)
    expected, actual = execute(observed, feeds), Executor(observed).run(feeds)
    assert len(expected) > 1
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@given(st.integers(0, 10_000), st.integers(6, 20), st.booleans(), st.sampled_from([8, 16]), st.sampled_from([4, 8]))
@examples(4)
def test_random_networks(seed: int, size: int, symmetric: bool, bits: int, weight_bits: int) -> None:
    program = import_test_model(small_network(seed, size))
    random = np.random.default_rng(seed)
    samples = [random.standard_normal((1, 3, size, size)).astype("float32") for _ in range(3)]
    options = {"symmetric": symmetric, "activation_bits": bits, "weight_bits": weight_bits}
    quantized = quantize(program, samples[:2], **options)
    assert_bit_exact(quantized.program, {"x": samples[2]})


@pytest.mark.parametrize("name", ["digits", "text-direction", "efficientnet-lite0"])
def test_real_models(name: str) -> None:
    model = real_models.quantized(name)
    assert_bit_exact(model.program, model.image(0))
