"""`pipeline quantize`: an ONNX file in, a quantized ONNX file out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.recipes import load_recipe
from tests.cli.commands import run
from tests.models import run_exactly, tiny_network

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Patch) -> list[object]:
    """The command and what it needs, in the working folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny_network(), "tiny.onnx")
    random = np.random.default_rng(0)
    np.save("samples.npy", random.standard_normal((4, 3, 12, 12)).astype("float32"))
    return ["quantize", "tiny.onnx", "--samples", "samples.npy", "--no-verify-import"]


def test_a_quantized_model_is_written(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    code, text, _ = run(capsys, monkeypatch, *command, "-o", "made/tiny.onnx", "--json")
    found = json.loads(text)
    assert (code, found["file"], found["calibration_samples"]) == (0, "made/tiny.onnx", 4)
    model = onnx.load("made/tiny.onnx")
    assert found["size"] == Path("made/tiny.onnx").stat().st_size
    x = np.load("samples.npy")[:1]
    (exact,), (rounded,) = (run_exactly(m, {"x": x}) for m in (tiny_network(), model))
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_it_has_the_models_name_if_none_is_given(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    code, text, _ = run(capsys, monkeypatch, *command)
    assert code == 0
    assert "tiny.int8.onnx" in text
    assert "4 of 5 operators in" in text
    onnx.checker.check_model("tiny.int8.onnx", full_check=True)


def test_a_name_that_is_not_onnx_is_refused_before_the_work(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    code, _, error = run(capsys, monkeypatch, *command, "-o", "tiny.so")
    assert (code, "written as .onnx" in error, "importing" in error) == (2, True, False)


def test_a_model_of_which_nothing_is_int8_is_not_written(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    assert run(capsys, monkeypatch, *command, "--skip", "*")[0] == 1
    assert not Path("tiny.int8.onnx").exists()


def test_a_recipe_has_its_own_samples(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    recipe = load_recipe("digits").folder / "digits.toml"
    code, text, _ = run(capsys, monkeypatch, "quantize", recipe, "--batch-nums", 2, "--no-verify-import", "--json")
    assert (code, json.loads(text)["calibration_samples"]) == (0, 2)
    code, _, error = run(capsys, monkeypatch, "quantize", recipe, "--samples", "samples.npy")
    assert (code, "its own samples" in error) == (2, True)
