"""For models in other formats, the error says what they are, and how to get an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from pipeline.errors import ModelError
from pipeline.importer import import_model
from tests.models import ModelBuilder

TOOLS = {
    "net.pdmodel": "paddle2onnx",
    "net.pt": r"torch\.onnx\.export",
    "net.PTH": r"torch\.onnx\.export",
    "net.tflite": "tf2onnx.* --tflite",
    "net.keras": r"model\.export\(FILE, format='onnx'\)",
    "net.pb": "tf2onnx",
    "net.safetensors": "weights without a model.*optimum-cli export onnx",
}

NOT_ONNX: dict[str, bytes] = {"text": b"PK\x03\x04 and so on", "an empty message": b"\x08\x08", "no graph": b"\x3a\x00"}


@pytest.mark.parametrize("data", NOT_ONNX.values(), ids=NOT_ONNX)
@pytest.mark.parametrize(("name", "tool"), TOOLS.items(), ids=TOOLS)
def test_another_format_is_named_with_what_converts_it(tmp_path: Path, name: str, tool: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"isn't an ONNX file.*\. By its name, it is .*{tool}"):
        import_model(tmp_path / name)


def test_a_folder_that_tensorflow_saved(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ModelError, match="By its content, it is TensorFlow's: convert it with tf2onnx"):
        import_model(tmp_path)


def test_an_onnx_file_may_have_any_name(tmp_path: Path) -> None:
    b = ModelBuilder()
    onnx.save(b.model({"x": (1, 3)}, b.node("Relu", "x")), tmp_path / "net.pb")
    assert import_model(tmp_path / "net.pb").name == "net.pb"


def test_a_name_that_says_nothing_has_no_hint(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"hello")
    with pytest.raises(
        ModelError, match=r"isn't an ONNX file\. It has another format, is truncated, or nests graphs too deep\.$"
    ):
        import_model(tmp_path / "net.onnx")
