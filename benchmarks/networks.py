"""The networks that speed is measured on: standard architectures with random weights, and real models from packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter

from benchmarks.architectures import ARCHITECTURES
from pipeline.recipes import load_recipe, prepare
from pipeline.recipes.fetch import file_from_package
from pipeline.recipes.schema import PackageSource

Array = npt.NDArray[Any]

PER_CHANNEL_OPSET = 17
"""ONNX Runtime's quantizer writes per-channel operators, which older models can't hold (before 13)."""

_RAPIDOCR = {
    "package": "rapidocr_onnxruntime",
    "version": "1.4.4",
    "sha256": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
}


def with_fixed_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Return a model whose inputs have the given shapes, of an opset that peers can quantize per channel."""
    for value in model.graph.input:
        if value.name in shapes:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.ClearField("dim_param")
                dim.dim_value = size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    if model.opset_import[0].version < PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    return model


@dataclass(frozen=True)
class Network:
    """A float32 network with one input.

    Attributes:
        load: returns the model.
        shape: of its input; the batch is a factor on top.
    """

    load: Callable[[], onnx.ModelProto]
    shape: tuple[int, ...]

    def write(self, path: Path, batch: int = 1) -> Path:
        """Write the model with its input's shape fixed, as every engine runs such models best."""
        model = self.load()
        shape = (self.shape[0] * batch, *self.shape[1:])
        fixed = with_fixed_shapes(model, {model.graph.input[0].name: shape})
        path.write_bytes(fixed.SerializeToString(deterministic=True))
        return path

    def samples(self, count: int, batch: int = 1) -> list[Array]:
        """Return random inputs; only speed counts."""
        random = np.random.default_rng(0)
        shape = (self.shape[0] * batch, *self.shape[1:])
        return [random.standard_normal(shape).astype("float32") for _ in range(count)]


def from_rapidocr(file: str) -> Callable[[], onnx.ModelProto]:
    """Return what loads one of the models in the package rapidocr_onnxruntime."""
    source = PackageSource(**_RAPIDOCR, path=f"rapidocr_onnxruntime/models/{file}")
    return lambda: onnx.load_model_from_string(file_from_package(source))


NETWORKS: Mapping[str, Network] = {
    **{name: Network(make, (1, 3, 224, 224)) for name, make in ARCHITECTURES.items()},
    "efficientnet-lite0": Network(
        lambda: onnx.load(prepare(load_recipe("efficientnet-lite0")).model), (1, 3, 224, 224)
    ),
    "pp-ocr-detection": Network(from_rapidocr("ch_PP-OCRv4_det_infer.onnx"), (1, 3, 320, 320)),
    "pp-ocr-recognition": Network(from_rapidocr("ch_PP-OCRv4_rec_infer.onnx"), (1, 3, 48, 320)),
}
"""Every network by name."""
