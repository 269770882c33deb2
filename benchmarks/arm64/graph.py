"""The standard architectures as lists of layers, for engines whose model files are written here.

Batch normalization is folded into convolutions, and activations into the layer before. Scales of quantized tensors are
made up: what is executed doesn't depend on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]

ACTIVATIONS = ("", "relu", "relu6")

CODES = {"": 127 / 4, "relu": 255 / 4, "relu6": 255 / 6}
"""Quantized steps in one, by activation: tensors reach from -4 to 4, or from 0 to 4 or 6."""


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        kind: "conv", "dense", "add", "max_pool" or "average_pool"; the latter is over the whole image.
        inputs: names of tensors.
        output: name of the tensor.
        shape: of the output, (channels, height, width).
        weight: [O,I,H,W] or [O,I].
        bias: [O].
        kernel: height and width.
        stride: of both.
        groups: of a convolution.
        activation: one of `ACTIVATIONS`.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, int, int]
    weight: Array | None = None
    bias: Array | None = None
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: str = ""

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.groups > 1

    def weights(self) -> tuple[Array, Array]:
        """Return weight and bias of a layer that has them."""
        assert self.weight is not None
        assert self.bias is not None
        return self.weight, self.bias


def weight_scales(weight: Array) -> Array:
    """Return the quantization step of each output channel: [O] float32."""
    return np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-6).astype("float32") / 127


def quantized(weight: Array) -> Array:
    """Return int8 weights."""
    scales = weight_scales(weight).reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(weight / scales).astype("int8")


def read(path: Path) -> list[Layer]:
    """Return the layers of one of `benchmarks.architectures`, in order; the input is "x"."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values = (*model.graph.value_info, *model.graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    layers: list[Layer] = []
    aliases: dict[str, str] = {}
    for node in model.graph.node:
        inputs = tuple(aliases.get(name, name) for name in node.input if name not in constants)
        arrays = [constants[name] for name in node.input if name in constants]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        (output,) = node.output
        if node.op_type in ("BatchNormalization", "Relu", "Clip", "Flatten"):
            aliases[output] = inputs[0]
            if node.op_type != "Flatten":
                layers[-1] = _absorbed(layers[-1], node.op_type, arrays)
        else:
            _, channels, *size = shapes[output]
            layers.append(_layer(node.op_type, inputs, output, (channels, *(size or (1, 1))), arrays, attributes))
    return layers


def _absorbed(layer: Layer, op_type: str, arrays: list[Array]) -> Layer:
    if op_type != "BatchNormalization":
        return replace(layer, activation="relu" if op_type == "Relu" else "relu6")
    scale, shift, mean, variance = arrays
    weight, bias = layer.weights()
    factor = scale / np.sqrt(variance + 1e-5)
    return replace(layer, weight=weight * factor[:, None, None, None], bias=(bias - mean) * factor + shift)


def _layer(
    op_type: str,
    inputs: tuple[str, ...],
    output: str,
    shape: tuple[Any, ...],
    arrays: list[Array],
    attributes: dict[str, Any],
) -> Layer:
    if op_type == "Conv":
        (weight,) = arrays
        sizes = {"kernel": weight.shape[-1], "stride": attributes["strides"][0], "groups": attributes["group"]}
        return Layer("conv", inputs, output, shape, weight, np.zeros(len(weight), "float32"), **sizes)
    if op_type == "Gemm":
        return Layer("dense", inputs, output, shape, *arrays)
    if op_type == "MaxPool":
        kernel, stride = attributes["kernel_shape"][0], attributes["strides"][0]
        return Layer("max_pool", inputs, output, shape, kernel=kernel, stride=stride)
    kinds = {"Add": "add", "GlobalAveragePool": "average_pool"}
    return Layer(kinds[op_type], inputs, output, shape)


def uses(layers: list[Layer]) -> Counter[str]:
    """Return how many layers read each tensor."""
    return Counter(name for layer in layers for name in layer.inputs)


def readers(layers: list[Layer], name: str) -> Iterator[Layer]:
    """Yield the layers that read a tensor."""
    return (layer for layer in layers if name in layer.inputs)
