"""Reads an ONNX file, which may be damaged or malicious."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from pipeline.errors import ModelError
from pipeline.importer.read.check import check_model, errors_naming
from pipeline.importer.read.external import load_external
from pipeline.importer.read.other_formats import format_hint

MAX_BYTES = 2 * 1024**3 - 1
"""Largest file: the limit of protobuf messages. Larger models keep their weights in external files."""


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model, external weights included, and the hexadecimal SHA-256 of all its bytes.

    Raises:
        ModelError: the file is missing, empty, too large, truncated or not ONNX; it refers to files outside its folder;
            or the model is invalid, see `check.check_model`.
    """
    try:
        info = path.stat()
    except OSError as error:
        raise ModelError(f"Model {path} can't be read: {error.strerror}.") from error
    if not stat.S_ISREG(info.st_mode):
        raise ModelError(f"Model {path} isn't a file. Give the path of an .onnx file.{format_hint(path)}")
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
        reason = format_hint(path) or " It has another format, is truncated, or nests graphs too deep."
        raise ModelError(f"Model {path} isn't an ONNX file.{reason}") from error
    if format_hint(path) and not model.graph.node:
        # Files of some other formats can be parsed as an empty ONNX message.
        raise ModelError(f"Model {path} isn't an ONNX file.{format_hint(path)}")
    digest = hashlib.sha256(data)
    with errors_naming(str(path)):
        load_external(model, path, digest)
    return check_model(model, str(path)), digest.hexdigest()
