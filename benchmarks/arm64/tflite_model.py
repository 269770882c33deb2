"""Writes TFLite's models, which come from TensorFlow else: by the schema's classes in the ai-edge-litert package.

Int8 models are as its quantizer makes them: int8 from the first layer to the last, a scale for each output channel of
the weights, float32 at input and output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arm64.graph import CODES, Array, Layer, quantized, read, weight_scales

_INPUT_STEPS = 127 / 4
_VERSION = 3

_VERSIONS = {
    **{"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2},
    **{"AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2, "QUANTIZE": 1, "DEQUANTIZE": 2},
}
"""Of each operator, the first one that takes int8."""


def write(model: Path, precision: str, folder: Path) -> Path:
    """Write an ONNX file's model and return the file's path."""
    layers = read(model)
    _, height, width = layers[0].shape
    path = folder / f"{precision}.tflite"
    image = (1, height * layers[0].stride, width * layers[0].stride, 3)
    path.write_bytes(_Writer(precision == "int8").model(layers, image))
    return path


class _Writer:
    """Collects what a model consists of."""

    def __init__(self, int8: bool) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.int8 = int8
        self.buffers: list[Any] = [self.schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: dict[str, int] = {}
        self.steps: dict[str, tuple[float, int]] = {}
        self.names: dict[str, int] = {}

    def model(self, layers: list[Layer], image: tuple[int, ...]) -> bytes:
        """Return the file of a model with one input."""
        import flatbuffers

        schema = self.schema
        first = last = self._float("input", image)
        self.names["x"] = first
        if self.int8:
            self.names["x"] = self._activation("x", image, _INPUT_STEPS, 0)
            self._operator("QUANTIZE", [first], self.names["x"], None)
        for layer in layers:
            self._layer(layer)
        last = self.names[layers[-1].output]
        if self.int8:
            last = self._float("output", (1, layers[-1].shape[0]))
            self._operator("DEQUANTIZE", [self.names[layers[-1].output]], last, None)
        graph = schema.SubGraphT()
        graph.tensors, graph.inputs, graph.outputs, graph.operators = self.tensors, [first], [last], self.operators
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = _VERSION, [graph], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, code)
            entry.version = _VERSIONS[code]
            model.operatorCodes.append(entry)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _layer(self, layer: Layer) -> None:
        schema = self.schema
        channels, height, width = layer.shape
        inputs = [self.names[name] for name in layer.inputs]
        shape = (1, channels) if layer.kind == "dense" else (1, height, width, channels)
        steps, zero = CODES[layer.activation], -128 if layer.activation else 0
        if layer.kind in ("max_pool", "average_pool"):
            steps, zero = self.steps[layer.inputs[0]]
        output = self._activation(layer.output, shape, steps, zero)
        kinds = schema.ActivationFunctionType
        activation = {"": kinds.NONE, "relu": kinds.RELU, "relu6": kinds.RELU6}[layer.activation]
        if layer.kind == "add":
            options = schema.AddOptionsT()
            code = "ADD"
        elif layer.kind.endswith("pool"):
            options = schema.Pool2DOptionsT()
            size = self.tensors[inputs[0]].shape[1] if layer.kind == "average_pool" else layer.kernel
            options.filterWidth = options.filterHeight = size
            code = "AVERAGE_POOL_2D" if layer.kind == "average_pool" else "MAX_POOL_2D"
            options.padding = schema.Padding.VALID if layer.kind == "average_pool" else schema.Padding.SAME
            options.strideW = options.strideH = layer.stride
        else:
            code, options, weight = self._weighted(layer)
            inputs += self._constants(layer, weight)
        options.fusedActivationFunction = activation
        self._operator(code, inputs, output, options)

    def _weighted(self, layer: Layer) -> tuple[str, Any, Array]:
        schema, (weight, _) = self.schema, layer.weights()
        if layer.kind == "dense":
            return "FULLY_CONNECTED", schema.FullyConnectedOptionsT(), weight
        options = schema.DepthwiseConv2DOptionsT() if layer.depthwise else schema.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = schema.Padding.SAME, layer.stride, layer.stride
        options.dilationWFactor = options.dilationHFactor = 1
        if layer.depthwise:
            options.depthMultiplier = 1
            return "DEPTHWISE_CONV_2D", options, weight.transpose(1, 2, 3, 0)
        return "CONV_2D", options, weight.transpose(0, 2, 3, 1)

    def _constants(self, layer: Layer, weight: Array) -> list[int]:
        original, bias = layer.weights()
        if not self.int8:
            return [
                self._tensor(f"{layer.output}_weight", "FLOAT32", weight.shape, weight.astype("<f4")),
                self._tensor(f"{layer.output}_bias", "FLOAT32", bias.shape, bias.astype("<f4")),
            ]
        scales = weight_scales(original)
        steps_in, _ = self.steps[layer.inputs[0]]
        values = quantized(original)
        axes = {2: (0, 1), 4: (1, 2, 3, 0) if layer.depthwise else (0, 2, 3, 1)}[original.ndim]
        axis = 3 if layer.depthwise else 0
        data = np.rint(bias * steps_in / scales).astype("<i4")
        return [
            self._tensor(
                f"{layer.output}_weight",
                "INT8",
                weight.shape,
                values.transpose(axes),
                scales,
                np.zeros(len(scales)),
                axis,
            ),
            self._tensor(
                f"{layer.output}_bias", "INT32", bias.shape, data, scales / steps_in, np.zeros(len(scales)), 0
            ),
        ]

    def _float(self, name: str, shape: tuple[int, ...]) -> int:
        return self._tensor(name, "FLOAT32", shape)

    def _activation(self, name: str, shape: tuple[int, ...], steps: float, zero: int) -> int:
        self.steps[name] = steps, zero
        kind = ("INT8", None, np.array([1 / steps]), np.array([zero])) if self.int8 else ("FLOAT32", None)
        self.names[name] = self._tensor(name, kind[0], shape, *kind[1:])
        return self.names[name]

    def _tensor(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        data: Array | None = None,
        scales: Array | None = None,
        zeros: Array | None = None,
        axis: int = 0,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), getattr(self.schema.TensorType, dtype)
        tensor.buffer = 0
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), "uint8")
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scales is not None and zeros is not None:
            quantization = self.schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = scales.astype("float32"), zeros.astype("int64")
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _operator(self, code: str, inputs: list[int], output: int, options: Any) -> None:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.codes.setdefault(code, len(self.codes))
        operator.inputs, operator.outputs, operator.builtinOptions = inputs, [output], options
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        self.operators.append(operator)
