"""Reads an ONNX file that nobody vouches for."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from pipeline.errors import ModelError
from pipeline.importer.read.check import check_model, naming
from pipeline.importer.read.external import load_external
from pipeline.importer.read.foreign import hint

MAX_BYTES = 2 * 1024**3 - 1
"""A protobuf message can't be larger; larger models keep their weights in external files."""


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model, external weights included, and the hexadecimal SHA-256 of all its bytes.

    Raises:
        ModelError: the file is missing, empty, too large, truncated or not ONNX, or refers to files outside its folder;
            or its content isn't what it should be, see `check.check_model`.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise ModelError(f"Model {path} can't be read: {error.strerror}.") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"Model {path} isn't a file. Give the path of an .onnx file.{hint(path)}")
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
        said = hint(path) or " It is of another kind, truncated, or nests graphs too deep."
        raise ModelError(f"Model {path} isn't an ONNX file.{said}") from error
    if hint(path) and not model.graph.node:
        # Other formats' messages can be read as an empty one of ONNX's.
        raise ModelError(f"Model {path} isn't an ONNX file.{hint(path)}")
    digest = hashlib.sha256(data)
    with naming(str(path)):
        load_external(model, path, digest)
    return check_model(model, str(path)), digest.hexdigest()
