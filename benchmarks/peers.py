"""Int8 models of the peers, each made by its own quantizer from the same samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
Feeds = Array | Mapping[str, Array]
"""One sample: the array of a model's one input, or those of all inputs by name."""


def quantize_onnxruntime(
    model: Path,
    samples: Sequence[Feeds],
    path: Path,
    activations: Literal["QUInt8", "QInt8"] = "QUInt8",
    method: Literal["MinMax", "Percentile", "Entropy"] = "MinMax",
    stride: int | None = None,
) -> Path:
    """Write ONNX Runtime's QDQ model: int8 weights per channel, after its own pre-processing.

    Args:
        model: the float model.
        samples: to calibrate with.
        path: the file to write.
        activations: their type.
        method: how ranges are chosen.
        stride: how many samples' tensors it keeps in memory at once, a divisor of their number; None means all.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load(model, load_external_data=False).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(samples))

        def __len__(self) -> int:
            return len(samples)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = (samples[i] for i in range(start_index, end_index))

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self._rest, None)
            return sample if sample is None else dict(sample) if isinstance(sample, Mapping) else {name: sample}

    prepared = path.with_suffix(".prepared.onnx")
    # Its symbolic inference stops at shapes that are computed; shapes are fixed here, so that ONNX's is enough.
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
        extra_options={} if stride is None else {"CalibStridedMinMax": stride},
    )
    return path


def quantize_openvino(model: Path, samples: Sequence[Feeds], path: Path, **options: Any) -> Path:
    """Write NNCF's model for OpenVINO; with attention in it, as a transformer.

    Args:
        model: the float model.
        samples: to calibrate with.
        path: the .xml file to write.
        options: of `nncf.quantize`.
    """
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    operators = {node.op_type for node in onnx.load(model, load_external_data=False).graph.node}
    kind = nncf.ModelType.TRANSFORMER if "Softmax" in operators and "LayerNormalization" in operators else None
    # Not openvino.Core().read_model: NNCF corrects no biases of what that returns, and doesn't say so.
    quantized = nncf.quantize(
        openvino.convert_model(model), nncf.Dataset(samples), subset_size=len(samples), model_type=kind, **options
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return path
