"""Small ONNX models for tests, and ONNX Runtime as the oracle for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pipeline.api import quantize
from pipeline.importer import import_proto
from pipeline.ir.program import Program
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import CalibrationTable, make_entry
from pipeline.quantization.observers import make_observer
from pipeline.quantization.spec import ObserverSpec
from pipeline.reference import execute_all

Array = npt.NDArray[Any]


class ModelBuilder:
    """Collects nodes; every call of `node` returns the name of the node's output."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any) -> str:
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], domain=domain, **attributes))
        return output

    def model(self, shapes: dict[str, Sequence[int | str]], *outputs: str) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in shapes.items()]
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "test", inputs, results, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in self.nodes} - {""})]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def import_test_model(model: onnx.ModelProto, **shapes: Sequence[int]) -> Program:
    return import_proto(model, shapes, "test", "0" * 64)


def run_exactly(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Return ONNX Runtime's outputs, computed without its optimizer, which saturates and reorders."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def run_onnx(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # What is compared with has to be what the model says, not what an optimizer makes of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def quantize_by_reference(program: Program, *samples: dict[str, Array]) -> Program:
    """Return a program as int8, calibrated with the NumPy reference, so that nothing is compiled."""
    annotation = annotate(program)
    seen = [{v.name: value for v, value in execute_all(program, feeds).items()} for feeds in samples]
    entries = {}
    for name, spec in annotation.specs().items():
        observer = make_observer(ObserverSpec(algorithm="abs_max"))
        for values in seen:
            observer.update(values[name])
        entries[name] = make_entry(name, observer, spec)
    table = CalibrationTable(model_sha256=program.source_sha256, samples=len(samples), tensors=entries)
    return quantize(program, annotation=annotation, table=table).program


def small_network(seed: int = 0, size: int = 12) -> onnx.ModelProto:
    """Return a network with one of everything; x: [1,3,size,size]."""
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype("float32")

    b = ModelBuilder()

    def conv(x: str, channels: int, out: int, kernel: int, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        inputs = [b.constant(weight(out, channels // groups, kernel, kernel)), b.constant(weight(out))]
        pad = kernel // 2
        return b.node("Conv", x, *inputs, pads=[pad] * 4, **attributes)

    stem = b.node("Relu", conv("x", 3, 18, 3, strides=[2, 2]))
    body = b.node("Add", conv(b.node("HardSwish", conv(stem, 18, 18, 3, group=18)), 18, 18, 1), stem)
    gate = b.node("Sigmoid", conv(b.node("GlobalAveragePool", body), 18, 18, 1))
    gated = b.node("Mul", body, gate)
    pooled = b.node("MaxPool", gated, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    joined = b.node("Concat", conv(gated, 18, 10, 1), pooled, axis=1)
    scales = b.constant(np.array([1, 1, 2, 2], "float32"))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    larger = b.node("Resize", joined, "", scales, **nearest)
    kernel = b.constant(weight(28, 28, 4, 4))
    larger = b.node("ConvTranspose", larger, kernel, strides=[2, 2], pads=[1, 1, 1, 1])
    larger = b.node("DepthToSpace", conv(larger, 28, 112, 3, strides=[4, 4]), blocksize=2)
    larger = b.node("Resize", larger, "", b.constant(np.array([1, 1, 1.5, 1.5], "float32")), mode="linear")
    joined = b.node("Add", conv(larger, 28, 28, 3, strides=[3, 3]), joined)
    tokens = b.node("Reshape", joined, b.constant(np.array([1, 28, -1])))
    rows = b.node("Transpose", tokens, perm=[0, 2, 1])
    attended = b.node("MatMul", b.node("Softmax", b.node("MatMul", rows, tokens), axis=-1), rows)
    attended = b.node("Transpose", attended, perm=[0, 2, 1])
    joined = b.node("Add", b.node("Reshape", attended, b.node("Shape", joined)), joined)
    flat = b.node("Flatten", b.node("GlobalAveragePool", joined))
    scores = b.node("Gemm", flat, b.constant(weight(5, 28)), b.constant(weight(5)), transB=1, name="scores")
    return b.model({"x": [1, 3, size, size]}, scores)


def tiny_network() -> onnx.ModelProto:
    """Return a network that builds at once; x: [1,3,12,12], scores: [1,5]."""
    random = np.random.default_rng(0)
    b = ModelBuilder()
    kernel, bias, weight = (random.standard_normal(s).astype("float32") for s in ((8, 3, 3, 3), 8, (8, 5)))
    image = b.node("Relu", b.node("Conv", "x", b.constant(kernel), b.constant(bias)))
    pooled = b.node("Flatten", b.node("GlobalAveragePool", image))
    return b.model({"x": [1, 3, 12, 12]}, b.node("MatMul", pooled, b.constant(weight), name="scores"))


def wide_network() -> onnx.ModelProto:
    """Return four convolutions in a row, the second of which gives one channel that leaves no steps for the others."""
    random = np.random.default_rng(0)
    weights = [random.standard_normal((8, channels, 1, 1)).astype("float32") for channels in (3, 8, 8, 8)]
    weights[1][0] *= 300
    weights[2][:, 0] = 0
    b = ModelBuilder()
    tensor = "x"
    for name, weight in zip(("first", "wide", "third", "y"), weights, strict=True):
        tensor = b.node("Conv", tensor, b.constant(weight), name=name)
    return b.model({"x": [1, 3, 12, 12]}, tensor)


def residual_network() -> onnx.ModelProto:
    """Return a ResNet's beginning, and two of its blocks; x: [2,3,40,40].

    What a block adds is read by a convolution that pads it, too, and the second block is strided.
    """
    random = np.random.default_rng(0)
    b = ModelBuilder()

    def conv(x: str, channels: int, out: int, kernel: int, **attributes: Any) -> str:
        weight = random.standard_normal((out, channels, kernel, kernel)) / np.sqrt(channels * kernel**2)
        inputs = [b.constant(value.astype("float32")) for value in (weight, random.standard_normal(out))]
        return b.node("Conv", x, *inputs, pads=[kernel // 2] * 4, **attributes)

    y = b.node("Relu", conv("x", 3, 16, 7, strides=[2, 2]))
    y = b.node("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = b.node("Relu", b.node("Add", conv(b.node("Relu", conv(y, 16, 16, 3)), 16, 16, 3), y))
    shortcut = conv(y, 16, 24, 1, strides=[2, 2])
    y = b.node("Relu", conv(y, 16, 24, 3, strides=[2, 2]))
    y = b.node("Relu", b.node("Add", conv(y, 24, 24, 3), shortcut))
    scores = conv(b.node("GlobalAveragePool", y), 24, 10, 1)
    return b.model({"x": [2, 3, 40, 40]}, b.node("Flatten", scores, name="scores"))
