"""Recognizes models in other formats than ONNX by their file names, and says how to get an ONNX file instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PYTORCH = "PyTorch's: load it there, and export the model with torch.onnx.export"
_PADDLE = "PaddlePaddle's: convert it with paddle2onnx (package paddle2onnx)"
_KERAS = "Keras's: load it there, and write it with model.export(FILE, format='onnx')"
_TENSORFLOW = "TensorFlow's: convert it with tf2onnx (python -m tf2onnx.convert --help)"

_FORMATS: Mapping[str, str] = {
    ".bin": "weights without a model: export the model with the library that made it",
    ".caffemodel": "Caffe's: convert it with caffe2onnx",
    ".ckpt": _PYTORCH,
    ".engine": "TensorRT's, built for one GPU: give the ONNX file that it was built from",
    ".gguf": "weights of a language model for llama.cpp; these models can't be built",
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".keras": _KERAS,
    ".mlmodel": "Core ML's: export the model that it was made from to ONNX",
    ".mlpackage": "Core ML's: export the model that it was made from to ONNX",
    ".ort": "ONNX Runtime's own: give the ONNX file that it was made from",
    ".pb": _TENSORFLOW,
    ".pdiparams": _PADDLE,
    ".pdmodel": _PADDLE,
    ".pt": _PYTORCH,
    ".pt2": _PYTORCH,
    ".pth": _PYTORCH,
    ".safetensors": "weights without a model: export the model that they belong to, as optimum-cli export onnx does",
    ".savedmodel": _TENSORFLOW,
    ".tflite": "TensorFlow Lite's: convert it with tf2onnx (python -m tf2onnx.convert --tflite FILE --output ONNX)",
    ".xml": "OpenVINO's: give the ONNX file that it was made from",
}


def format_hint(path: Path) -> str:
    """Return a sentence, after a space, that says what a file of another format is, and what to do; "" if unknown."""
    if (path / "saved_model.pb").is_file():
        return f" By its content, it is {_TENSORFLOW}."
    known = _FORMATS.get(path.suffix.lower())
    return "" if known is None else f" By its name, it is {known}."
