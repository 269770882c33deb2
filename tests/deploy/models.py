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

SHAPE = (1, 3, 12, 12)


def sample(seed: int) -> dict[str, np.ndarray]:
    """Return one input by name, the same for the same seed."""
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
