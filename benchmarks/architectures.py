"""Standard architectures with seeded random weights: for speed only, their answers mean nothing.

python -m benchmarks.architectures mobilenet_v1 mobilenet_v1.onnx
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """Collects the nodes of a network; weights are He-initialized, from one seeded generator."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its output's name."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def weight(self, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.astype("float32"), name))
        return name

    def conv(
        self, x: str, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, limit: float | None = 0.0
    ) -> str:
        """Convolution and batch normalization; then ReLU (limit 0), ReLU6 (limit 6) or nothing (None)."""
        shape = (out, channels // groups, kernel, kernel)
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        pads = [kernel // 2] * 4
        weight = self.weight(self.random.standard_normal(shape) * scale)
        y = self.node(
            "Conv", x, weight, kernel_shape=[kernel, kernel], strides=[stride, stride], pads=pads, group=groups
        )
        statistics = ((0.9, 1.1), (-0.1, 0.1), (-0.1, 0.1), (0.9, 1.1))
        y = self.node("BatchNormalization", y, *(self.weight(self.random.uniform(*s, out)) for s in statistics))
        if limit is None:
            return y
        return self.node("Relu", y) if limit == 0 else self.node("Clip", y, self.scalar(0), self.scalar(limit))

    def scalar(self, value: float) -> str:
        """Add a constant number."""
        return self.weight(np.float32(value).reshape(()))

    def classifier(self, x: str, channels: int) -> onnx.ModelProto:
        """Append average pooling and 1000 classes, and return the model."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        weight = self.weight(self.random.standard_normal((1000, channels)) / np.sqrt(channels))
        y = self.node("Gemm", flat, weight, self.weight(np.zeros(1000)), transB=1)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])]
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["batch", 1000])]
        graph = helper.make_graph(self.nodes, "network", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def mobilenet_v1() -> onnx.ModelProto:
    """A. Howard et al., 2017, width 1."""
    n = Network()
    x, channels = n.conv("x", 3, 32, 3, 2), 32
    rows = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    for out, stride in rows:
        x = n.conv(x, channels, channels, 3, stride, channels)
        x, channels = n.conv(x, channels, out, 1), out
    return n.classifier(x, channels)


def mobilenet_v2() -> onnx.ModelProto:
    """M. Sandler et al., 2018, width 1."""
    n = Network()
    x, channels = n.conv("x", 3, 32, 3, 2, limit=6), 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, repeats, first in rows:
        for i in range(repeats):
            stride, wide = first if i == 0 else 1, channels * expansion
            y = n.conv(x, channels, wide, 1, limit=6) if expansion > 1 else x
            y = n.conv(y, wide, wide, 3, stride, wide, limit=6)
            y = n.conv(y, wide, out, 1, limit=None)
            x, channels = n.node("Add", x, y) if stride == 1 and channels == out else y, out
    return n.classifier(n.conv(x, channels, 1280, 1, limit=6), 1280)


def resnet(repeats: tuple[int, ...], bottleneck: bool) -> onnx.ModelProto:
    """K. He et al., 2015; stride in the 3x3 convolution."""
    n = Network()
    x, channels = n.conv("x", 3, 64, 7, 2), 64
    x = n.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, count in enumerate(repeats):
        width = 64 << stage
        out = width * 4 if bottleneck else width
        for i in range(count):
            stride = 2 if i == 0 and stage > 0 else 1
            if bottleneck:
                y = n.conv(n.conv(x, channels, width, 1), width, width, 3, stride)
                y = n.conv(y, width, out, 1, limit=None)
            else:
                y = n.conv(n.conv(x, channels, width, 3, stride), width, out, 3, limit=None)
            shortcut = n.conv(x, channels, out, 1, stride, limit=None) if stride > 1 or channels != out else x
            x, channels = n.node("Relu", n.node("Add", y, shortcut)), out
    return n.classifier(x, channels)


ARCHITECTURES: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
}
"""Every architecture by name."""


def write(name: str, path: Path) -> Path:
    """Write an architecture as an ONNX file and return its path."""
    path.write_bytes(ARCHITECTURES[name]().SerializeToString(deterministic=True))
    return path


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
