"""Int8 models of the peers, each made by its own quantizer from the same samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]


def quantize_onnxruntime(
    model: Path, samples: Sequence[Array], path: Path, activations: Literal["QUInt8", "QInt8"] = "QUInt8"
) -> Path:
    """Write ONNX Runtime's QDQ model: int8 weights per channel, after its own pre-processing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(model, load_external_data=False).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter([{name: sample} for sample in samples])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._rest, None)

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
    )
    return path


def quantize_openvino(model: Path, samples: Sequence[Array], path: Path) -> Path:
    """Write NNCF's model for OpenVINO; with attention in it, as a transformer."""
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    operators = {node.op_type for node in onnx.load(model, load_external_data=False).graph.node}
    kind = nncf.ModelType.TRANSFORMER if "Softmax" in operators and "LayerNormalization" in operators else None
    quantized = nncf.quantize(
        openvino.convert_model(model), nncf.Dataset(list(samples)), subset_size=len(samples), model_type=kind
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return path
