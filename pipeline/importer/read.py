"""Reads an ONNX file that nobody vouches for."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, numpy_helper

from pipeline.errors import ModelError

MAX_BYTES = 2 * 1024**3 - 1
"""A protobuf message can't be larger; larger models keep their weights in external files."""

MAX_EXTERNAL_BYTES = 16 * 1024**3


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model, external weights included, and the hexadecimal SHA-256 of all its bytes.

    Raises:
        ModelError: the file is missing, empty, too large, truncated or not ONNX, refers to files outside its folder, or
            holds weights that aren't finite.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise ModelError(f"Model {path} can't be read: {error.strerror}.") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"Model {path} isn't a file. Give the path of an .onnx file.")
    if info.st_size == 0:
        raise ModelError(f"Model {path} is empty.")
    if info.st_size > MAX_BYTES:
        raise ModelError(f"Model {path} has {info.st_size} bytes; an ONNX file has at most {MAX_BYTES}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"Model {path} can't be read: {error.strerror}.") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"Model {path} isn't an ONNX file, or is truncated.") from error
    if not model.opset_import or not model.graph.output:
        raise ModelError(f"Model {path} isn't an ONNX model: it has no operator set or no outputs.")
    digest = hashlib.sha256(data)
    _load_external(model, path, digest)
    _check_finite(model, path)
    return model, digest.hexdigest()


def _load_external(model: onnx.ModelProto, path: Path, digest: hashlib._Hash) -> None:
    """Bring external weights into the model; only regular files below the model's own folder are read."""
    folder = path.parent.resolve()
    total = 0
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder) or not file.is_file():
            raise ModelError(
                f"Model {path}: weight {tensor.name!r} lies in {location!r}, "
                "which isn't a file below the model's folder."
            )
        total += file.stat().st_size
        if total > MAX_EXTERNAL_BYTES:
            raise ModelError(f"Model {path}: its external weights exceed {MAX_EXTERNAL_BYTES} bytes.")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"Model {path}: weight {tensor.name!r} can't be read from {location!r}: {error}"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)


def _check_finite(model: onnx.ModelProto, path: Path) -> None:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        if tensor.data_type not in floats:
            continue
        try:
            value = numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ModelError(f"Model {path}: weight {tensor.name!r} is damaged: {error}") from error
        # A clip without a limit is written as infinity by some exporters, so scalars may be infinite.
        if np.isnan(value).any() or (value.size > 1 and np.isinf(value).any()):
            raise ModelError(
                f"Model {path}: weight {tensor.name!r} holds NaN or infinity. "
                "Export the model again from a sound checkpoint."
            )
