"""SplitBatches: layers run image by image where that saves memory traffic, and compute the same."""

from __future__ import annotations

import numpy as np

from pipeline.api import quantize
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.passes.lowering.separate_padding import separate_padding
from pipeline.passes.lowering.split_batches import split_batches
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model

BATCH = 3


def network(pixels: int, channels: int) -> Program:
    """Return an int8 network with a squeeze-excite block, a concatenation, and a classifier."""
    b, random = ModelBuilder(), np.random.default_rng(0)

    def conv(x: str, inputs: int, kernel: int = 3) -> str:
        weight = b.constant(random.standard_normal((channels, inputs, kernel, kernel)).astype("float32"))
        return b.node("Relu", b.node("Conv", x, weight, pads=[kernel // 2] * 4))

    y = conv("x", 4)
    y = b.node("Mul", y, b.node("Sigmoid", conv(b.node("GlobalAveragePool", y), channels, kernel=1)))
    y = b.node("Concat", b.node("Add", conv(y, channels), y), y, axis=1)
    flat = b.node("Flatten", b.node("GlobalAveragePool", y))
    weight = b.constant(random.standard_normal((2 * channels, 8)).astype("float32"))
    program = import_test_model(b.model({"x": [BATCH, 4, pixels, pixels]}, b.node("MatMul", flat, weight)))
    samples = [random.standard_normal((BATCH, 4, pixels, pixels)).astype("float32")]
    return quantize(program, samples).program


def split(program: Program, l2_bytes: int) -> Program:
    module = split_batches(separate_padding(program.module), l2_bytes)
    return Program(module, program.inputs, program.outputs, program.name, program.source_sha256)


def count(program: Program, operator: str) -> int:
    return sum(b.operator == operator for b in Dataflow.of(program.module).bindings)


def test_an_image_after_the_other_gives_the_same_bytes() -> None:
    program = network(pixels=32, channels=8)
    parts = split(program, l2_bytes=40_000)
    assert count(parts, "nn.stack") > 0
    assert count(parts, "qnn.conv2d") > count(program, "qnn.conv2d")
    x = {"x": np.random.default_rng(1).standard_normal(program.inputs[0].shape).astype("float32")}
    for name, value in execute(program, x).items():
        np.testing.assert_array_equal(execute(parts, x)[name], value)


def test_a_batch_that_fits_the_cache_stays_together() -> None:
    assert count(split(network(pixels=32, channels=8), l2_bytes=1 << 20), "nn.stack") == 0


def test_layers_with_more_weights_than_activations_stay_together() -> None:
    program = network(pixels=1, channels=64)
    assert count(split(program, l2_bytes=100), "qnn.conv2d") == count(program, "qnn.conv2d")
