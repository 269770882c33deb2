"""`pipeline compare`: tables, JSON and a picture of how far int8's tensors are from float's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import OptionError, QuantizationError
from tests.cli.commands import run
from tests.models import tiny_network

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Patch) -> list[object]:
    """The command and what it needs, in the working folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny_network(), "tiny.onnx")
    Path("samples").mkdir()
    for i, sample in enumerate(arrays(5)):
        np.save(f"samples/{i}.npy", sample)
    return ["compare", "tiny.onnx", "--samples", "samples", "--no-verify-import"]


def arrays(count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.standard_normal((3, 12, 12)).astype("float32")


def test_each_tensor_has_a_line(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    code, text, _ = run(capsys, monkeypatch, *command)
    assert code == 0
    assert "int8 beside float on 5 of the calibration samples" in text
    assert all(name in text for name in ("x.permuted", "conv2d", "scores", "first below 20 dB"))


def test_json_names_the_first_tensor_that_is_poor(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    code, text, _ = run(capsys, monkeypatch, *command, "--below", 500, "--measure", 2, "--json")
    found = json.loads(text)
    assert (code, found["samples"], found["first"]) == (0, 2, found["tensors"][0]["name"])
    code, text, _ = run(capsys, monkeypatch, *command, "--below", -500, "--hold-back", 0.4, "--json")
    found = json.loads(text)
    assert (code, found["samples"], found["inputs"], found["first"]) == (0, 2, "samples that were held back", None)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_is_drawn_the_same_every_time(
    capsys: Capture, monkeypatch: Patch, command: list[object], kind: str
) -> None:
    pictures = []
    for _ in range(2):
        assert run(capsys, monkeypatch, *command, "--plot", f"tiny.{kind}")[0] == 0
        pictures.append(Path(f"tiny.{kind}").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])


def test_what_cannot_be_drawn_is_refused_before_the_work(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    code, _, error = run(capsys, monkeypatch, *command, "--plot", "tiny.gif")
    assert (code, ".pdf, .png, .svg" in error, "importing" in error) == (2, True, False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, error = run(capsys, monkeypatch, *command, "--plot", "tiny.png")
    assert (code, "onnx-int8-pipeline[plot]" in error, "importing" in error) == (2, True, False)


def test_samples_are_needed_twice(command: list[object]) -> None:
    with pytest.raises(OptionError, match="read only once"):
        pipeline.compare("tiny.onnx", arrays(3))


def test_a_model_that_stays_in_float_has_nothing_to_compare(command: list[object]) -> None:
    with pytest.raises(QuantizationError, match="0 of"):
        pipeline.compare("tiny.onnx", "samples", skip=["*"])
