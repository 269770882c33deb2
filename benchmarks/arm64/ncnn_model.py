"""Writes ncnn's models: a text of layers, and a file of weights; ncnn's converters aren't in its wheel.

Int8 models are as ncnn's own quantizer makes them: convolutions and dense layers in int8, with a scale for each output
channel; where only convolutions read a convolution's result, that stays in int8.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from benchmarks.arm64.graph import CODES, Array, Layer, quantized, read, readers, uses, weight_scales

_MAGIC = 7767517
_FLOAT32, _INT8 = 0, 0x000D4B38
_INPUT_STEPS = 127 / 4


def write(model: Path, precision: str, folder: Path) -> Path:
    """Write an ONNX file's model as NAME.param and NAME.bin, and return the former."""
    layers = read(model)
    path = folder / f"ncnn.{precision}.param"
    lines, weights, tensors = [["Input", "x", "0 1", "x", ""]], io.BytesIO(), {"x"}
    counts, taken = uses(layers), dict.fromkeys(uses(layers), 0)
    steps = {"x": _INPUT_STEPS} | {layer.output: CODES[layer.activation] for layer in layers}

    def split(name: str) -> None:
        """A tensor can be read once; so there is one for each reader."""
        if counts[name] > 1:
            names = [f"{name}_{i}" for i in range(counts[name])]
            lines.append(["Split", f"split_{name}", f"1 {len(names)}", f"{name} {' '.join(names)}", ""])
            tensors.update(names)

    def reading(name: str) -> str:
        taken[name] += 1
        return f"{name}_{taken[name] - 1}" if counts[name] > 1 else name

    split("x")
    for layer in layers:
        inputs = [reading(name) for name in layer.inputs]
        fused = precision == "int8" and layer.kind == "conv" and counts[layer.output] > 0
        fused = fused and all(reader.kind == "conv" for reader in readers(layers, layer.output))
        kind, parameters = _parameters(layer, precision, fused)
        output = layer.output
        if layer.kind == "add" and layer.activation:
            output = f"{layer.output}_sum"
        lines.append([kind, f"layer_{output}", f"{len(inputs)} 1", f"{' '.join(inputs)} {output}", parameters])
        tensors.add(output)
        if output != layer.output:
            lines.append(["ReLU", f"layer_{layer.output}", "1 1", f"{output} {layer.output}", ""])
            tensors.add(layer.output)
        if layer.weight is not None:
            _write_weights(weights, layer, precision, steps[layer.inputs[0]], steps[layer.output] if fused else None)
        split(layer.output)
    text = "\n".join([str(_MAGIC), f"{len(lines)} {len(tensors)}", *(" ".join(line) for line in lines)])
    path.write_text(text + "\n", encoding="ascii")
    path.with_suffix(".bin").write_bytes(weights.getvalue())
    return path


def _parameters(layer: Layer, precision: str, fused: bool) -> tuple[str, str]:
    """Return ncnn's name of a layer, and its parameters by their numbers."""
    if layer.kind == "max_pool":
        return "Pooling", f"0=0 1={layer.kernel} 2={layer.stride} 3={layer.kernel // 2} 5=1"
    if layer.kind == "average_pool":
        return "Pooling", "0=1 4=1"
    if layer.kind == "add":
        return "BinaryOp", "0=0"
    weight, _ = layer.weights()
    values = f"0={len(weight)} 1=1 2={weight.size}"
    term = 0
    if layer.kind == "conv":
        term = 1 if layer.depthwise else 2
        values = f"0={len(weight)} 1={layer.kernel} 3={layer.stride} 4={layer.kernel // 2} 5=1 6={weight.size}"
        values += f" 7={layer.groups}" if layer.depthwise else ""
    else:
        term = 2
    if precision == "int8":
        values += f" 8={term + (100 if fused else 0)}"
    if layer.activation:
        values += " 9=1" if layer.activation == "relu" else " 9=3 -23310=2,0.0,6.0"
    if layer.kind == "dense":
        return "InnerProduct", values
    return "ConvolutionDepthWise" if layer.depthwise else "Convolution", values


def _write_weights(file: io.BytesIO, layer: Layer, precision: str, steps_in: float, steps_out: float | None) -> None:
    weight, bias = layer.weights()

    def write(values: Array) -> None:
        file.write(values.astype("<f4").tobytes())

    if precision == "float32":
        file.write(np.array([_FLOAT32], "<u4").tobytes())
        write(weight)
        write(bias)
        return
    file.write(np.array([_INT8], "<u4").tobytes())
    data = quantized(weight).tobytes()
    file.write(data + bytes(-len(data) % 4))
    write(bias)
    # ncnn's scales are steps in one, not the other way round.
    write(1 / weight_scales(weight))
    write(np.array([steps_in]))
    if steps_out is not None:
        write(np.array([steps_out]))
