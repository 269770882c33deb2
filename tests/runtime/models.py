"""A small model, as float and int8 programs, and inputs for it."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, numpy_helper

import pipeline
from pipeline.api import Quantized
from pipeline.ir.program import Program
from tests.models import ModelBuilder, import_test_model, quantize_by_reference

SHAPE = (1, 3, 12, 12)
LARGE_SHAPE = (1, 3, 64, 64)


def sample(seed: int) -> dict[str, np.ndarray]:
    """Return an input by name, which the seed determines."""
    return {"x": np.random.default_rng(seed).normal(size=SHAPE).astype("float32")}


def onnx_model(activation: str = "Relu") -> onnx.ModelProto:
    """Return two convolutions, a residual sum, a pooled classifier and softmax as a second output."""
    random = np.random.default_rng(7)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.normal(size=shape) * 0.3).astype("float32"), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["r1", "c2"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"]),
    ]
    constants = [
        constant("w1", 16, 3, 3, 3),
        constant("b1", 16),
        constant("w2", 16, 16, 3, 3),
        constant("b2", 16),
        constant("w3", 16, 10),
        constant("b3", 10),
    ]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 10]) for n in ("logits", "probability")]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(SHAPE))
    graph = helper.make_graph(nodes, "small", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@functools.cache
def quantized_model() -> Quantized:
    """Return the model quantized with eight samples; `source` is the float program."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(onnx_model(), path)
        program = pipeline.load(path)
    return pipeline.quantize(program, [sample(seed) for seed in range(8)])


def large_network() -> onnx.ModelProto:
    """Return a network with a layer of every kind that threads share, each large enough for that."""
    random, b = np.random.default_rng(0), ModelBuilder()

    def weight(*shape: int) -> str:
        return b.constant((random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32"))

    def conv(x: str, channels: int, kernel: int, inputs: int, **attributes: int) -> str:
        return b.node("Conv", x, weight(channels, inputs, kernel, kernel), pads=[kernel // 2] * 4, **attributes)

    y = b.node("Relu", conv("x", 32, 3, 3))
    gate = b.node("Sigmoid", b.node("Relu", conv(y, 32, 5, 1, group=32)))
    pooled = b.node("MaxPool", b.node("Mul", y, gate), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    total = b.node("Add", conv(pooled, 32, 3, 32), pooled)
    rows = b.node("Reshape", total, b.constant(np.array([8, 128, 128])))
    weights = b.node("Softmax", b.node("MatMul", rows, b.node("Transpose", rows, perm=[0, 2, 1])), axis=-1)
    attended = b.node("Reshape", b.node("MatMul", weights, rows), b.constant(np.array([1, 32, 64, 64])))
    joined = conv(b.node("Concat", attended, total, axis=1), 32, 1, 64)
    flat = b.node("Flatten", b.node("AveragePool", joined, kernel_shape=[8, 8], strides=[8, 8]))
    scores = b.node("Gemm", flat, weight(512, 2048), transB=1, name="scores")
    return b.model({"x": LARGE_SHAPE}, scores)


@functools.cache
def large_program() -> Program:
    """Return `large_network` as int8."""
    program = import_test_model(large_network())
    return quantize_by_reference(program, large_sample(0))


def large_sample(seed: int) -> dict[str, np.ndarray]:
    """Return an input of `large_network`."""
    return {"x": np.random.default_rng(seed).normal(size=LARGE_SHAPE).astype("float32")}
