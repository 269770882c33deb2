"""Which engines saturate on this machine, and how far their answers are from their own quantized models, in float.

    python -m benchmarks.saturation ENGINE MODEL

prints the signal to noise ratio, in dB, of an engine's answers to what is in the file, computed in float: quantized
values, scales and all.

Before VNNI, x86 sums two products of bytes in 16 bits (`vpmaddubsw`), which saturates; engines that let it happen are
quick, and wrong. Rounding makes noise, too: by how much depends on the network. So whether an engine saturates is asked
of a probe, a network in which every such sum is too large.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

SATURATED_BELOW_DB = 20.0
"""On the probe: with saturation it is about 7 dB, without it far more than 40."""

PROBE_SHAPE = (1, 64, 16, 16)

_SAMPLES = 4


def onnxruntime(path: Path) -> tuple[Array, Array]:
    """Return ONNX Runtime's answers, and those of the same model without optimizations: QDQ is in float then."""
    import onnxruntime

    def run(level: onnxruntime.GraphOptimizationLevel) -> Array:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (spec, *_) = session.get_inputs()
        return np.stack([session.run(None, {spec.name: sample})[0] for sample in _samples(spec.shape)])

    levels = onnxruntime.GraphOptimizationLevel
    return run(levels.ORT_ENABLE_ALL), run(levels.ORT_DISABLE_ALL)


def openvino(path: Path) -> tuple[Array, Array]:
    """Return OpenVINO's answers, and those of the same model with float weights, whose quantization is simulated."""
    import openvino

    def run(model: openvino.Model, config: dict[str, str]) -> Array:
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **config})
        return np.stack([compiled(sample)[0] for sample in _samples(model.input(0).shape)])

    simulated = openvino.Core().read_model(path)
    for node in simulated.get_ordered_ops():
        if node.get_type_name() == "Multiply" and (value := _weights(node)) is not None:
            node.output(0).replace(openvino.opset13.constant(value).output(0))
    return run(openvino.Core().read_model(path), {}), run(simulated, {"LP_TRANSFORMS_MODE": "NO"})


def _weights(node: Any) -> Array | None:
    """Return what a node computes if it computes that of constants alone, with a cast from int8 among them."""
    kind, inputs = node.get_type_name(), [value.get_node() for value in node.input_values()]
    if kind == "Constant":
        return np.array(node.data)
    values = [_weights(operand) for operand in inputs] if kind in _OF_WEIGHTS else [None]
    if any(value is None for value in values):
        return None
    return _OF_WEIGHTS[kind](*values)


_OF_WEIGHTS: dict[str, Callable[..., Array]] = {
    "Convert": lambda value: value.astype("float32"),
    "Subtract": np.subtract,
    "Multiply": np.multiply,
}


ENGINES: dict[str, Callable[[Path], tuple[Array, Array]]] = {"onnxruntime": onnxruntime, "openvino": openvino}


def _samples(shape: Any) -> Array:
    return np.random.default_rng(0).standard_normal((_SAMPLES, *shape)).astype("float32")


def probe() -> onnx.ModelProto:
    """Return a network of two 1x1 convolutions, whose activations and weights are nearly as large as they get.

    The first one is there as NNCF gives the weights of a network's first layer but 7 bits.
    """
    random, channels = np.random.default_rng(0), PROBE_SHAPE[1]
    constants = {
        "large": np.float32(1000),
        "zero": np.float32(0),
        "one": np.float32(1),
        "mean": np.full((channels, channels, 1, 1), 1 / channels, "float32"),
        "weights": random.uniform(0.8, 1, (channels, channels, 1, 1)).astype("float32"),
    }
    nodes = [
        helper.make_node("Abs", ["x"], ["magnitude"]),
        helper.make_node("Mul", ["magnitude", "large"], ["enlarged"]),
        helper.make_node("Clip", ["enlarged", "zero", "one"], ["ones"]),
        helper.make_node("Conv", ["ones", "mean"], ["first"]),
        helper.make_node("Conv", ["first", "weights"], ["y"]),
    ]
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, PROBE_SHAPE)] for name in ("x", "y"))
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main(engine: str, model: str) -> None:
    """Print the ratio."""
    actual, expected = ENGINES[engine](Path(model))
    noise = float(np.square(actual - expected, dtype="float64").sum())
    signal = float(np.square(expected, dtype="float64").sum())
    print(10 * np.log10(signal / noise) if noise else np.inf)


if __name__ == "__main__":
    main(*sys.argv[1:])
