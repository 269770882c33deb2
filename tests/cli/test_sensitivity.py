"""`pipeline sensitivity`: a ranking, and a command that does something about it."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import OptionError
from tests.cli.commands import run
from tests.models import tiny_network

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Patch) -> list[object]:
    """The command and what it needs, in the working folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny_network(), "tiny.onnx")
    random = np.random.default_rng(0)
    np.save("some samples.npy", random.standard_normal((4, 3, 12, 12)).astype("float32"))
    return ["sensitivity", "tiny.onnx", "--samples", "some samples.npy", "--no-verify-import", "--algorithm", "abs_max"]


def test_the_ranking_ends_with_a_command_that_can_be_given(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    code, text, _ = run(capsys, monkeypatch, *command, "--plot", "ranking.svg", "--json")
    found = json.loads(text)
    assert (code, found["metric"], found["samples"]) == (0, "SQNR, dB", 4)
    assert Path("ranking.svg").read_bytes().startswith(b"<?xml")
    words = shlex.split(found["command"])
    kept = [word for before, word in itertools.pairwise(words) if before == "--keep-float"]
    assert kept == found["suggestion"]["keep_float"]
    assert words[:5] == ["pipeline", "build", "tiny.onnx", "--samples", "some samples.npy"]
    assert {"--no-verify-import", "--algorithm", "abs_max"} <= set(words)
    assert not {"--plot", "--json"} & set(words)
    code, text, _ = run(capsys, monkeypatch, *words[1:], "--json", "--allow-float")
    report = json.loads(text)
    assert code == 0
    left = {o["name"] for o in report["annotation"]["operators"] if o["reason"] == "it is in the skip list"}
    assert left == set(kept)
    assert report["agreement"]["sqnr_db"] is None or found["suggestion"]["before"] < report["agreement"]["sqnr_db"]


def test_what_does_not_help_is_not_suggested(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    # Each rounding alone costs something, and all of them together nothing.
    Path("user.py").write_text(
        "calls = []\n"
        "def score(outputs, sample):\n"
        "    calls.append(sample)\n"
        "    alone = len(calls) <= 8\n"
        "    same = (outputs['scores'] == sample.float_outputs['scores']).all()\n"
        "    return float(same) if alone else -len(calls)\n",
        encoding="utf-8",
    )
    code, text, _ = run(capsys, monkeypatch, *command, "--metric", "user.py:score", "--measure", 1, "--json")
    found = json.loads(text)
    assert code == 0
    assert found["suggestion"]["keep_float"]
    assert found["suggestion"]["after"] < found["suggestion"]["before"]
    assert (found["suggestion"]["helps"], found["command"]) == (False, None)
    code, text, _ = run(capsys, monkeypatch, *command, "--metric", "user.py:score", "--measure", 1)
    assert (code, "It doesn't help" in text) == (0, True)


def test_the_ranking_is_a_table(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    code, text, _ = run(capsys, monkeypatch, *command, "--metric", "kl", "--measure", 2)
    assert code == 0
    words = ("quantized alone, on 2 of the calibration samples", "KL, nats", "weights", "to leave in float")
    assert all(word in text for word in words)


def test_a_users_metric_ranks(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    Path("user.py").write_text(
        "def same(outputs, sample):\n"
        "    return outputs['scores'].argmax() == sample.float_outputs['scores'].argmax()\n"
        "def fails(outputs, sample):\n"
        "    raise ValueError('no labels')\n",
        encoding="utf-8",
    )
    code, text, _ = run(capsys, monkeypatch, *command, "--metric", "user.py:same", "--json")
    found = json.loads(text)
    assert (code, found["metric"], found["float_value"]) == (0, "user.py:same", 1.0)
    code, text, _ = run(capsys, monkeypatch, *command, "--metric", "user.py:fails", "--json")
    error = json.loads(text)["error"]
    assert (code, error["kind"]) == (2, "MetricError")
    assert "some samples.npy" in error["message"]
    assert "with nothing quantized: no labels" in error["message"]


def test_what_was_measured_is_kept(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    results = [run(capsys, monkeypatch, *command, "--state", "state.json", "--json")[1] for _ in range(2)]
    assert results[0] == results[1]
    assert json.loads(Path("state.json").read_text(encoding="utf-8"))["schema_version"] == 1


def test_a_given_table_is_ranked_by_and_nothing_tried(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    assert run(capsys, monkeypatch, "build", *command[1:])[0] == 0
    table = "out/tiny.calibration.json"
    code, text, _ = run(capsys, monkeypatch, *command, "--calibration", table, "--json")
    suggestion = json.loads(text)["suggestion"]
    assert (code, suggestion["before"], suggestion["after"]) == (0, None, None)


def test_an_annotation_file_is_refused(command: list[object]) -> None:
    with pytest.raises(OptionError, match="an annotation file overrides"):
        pipeline.sensitivity("tiny.onnx", "some samples.npy", annotation="out/tiny.annotation.json")


def test_what_stays_in_float_has_two_names(capsys: Capture, monkeypatch: Patch, command: list[object]) -> None:
    reports = []
    for flag in ("--skip", "--keep-float"):
        code, text, _ = run(capsys, monkeypatch, "build", *command[1:], flag, "Conv", "--json")
        assert code == 0
        reports.append(json.loads(text)["annotation"])
    assert reports[0] == reports[1]
