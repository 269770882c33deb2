"""`pipeline build --max-drop`: libraries that are good enough, a command that builds them again, or none at all."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.analysis.metrics import MeasuredSample
from pipeline.distances import Array
from pipeline.errors import MetricError, OptionError, SampleError
from pipeline.schema import to_json
from pipeline.workflow.exception_times import OperatorTimes, measured_times
from tests.cli.commands import run
from tests.models import wide_network

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Patch) -> list[object]:
    """The command and what it needs, in the working folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(wide_network(), "wide.onnx")
    random = np.random.default_rng(0)
    np.save("samples.npy", random.standard_normal((20, 3, 12, 12)).astype("float32"))
    options = ("--no-verify-import", "--algorithm", "abs_max", "--effort", "none")
    return ["build", "wide.onnx", "--samples", "samples.npy", *options]


def test_the_printed_command_builds_the_same_without_a_search(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    times = ["--operator-times", "times.json"]
    code, text, _ = run(capsys, monkeypatch, *command, "--max-drop", "1%", *times, "--json")
    report = json.loads(text)
    mixed = report["mixed"]
    assert code == 0
    assert (
        mixed["mixed"]["checked"]["drop"]
        <= mixed["mixed"]["checked"]["limit"]
        == 0.01
        < mixed["int8"]["checked"]["drop"]
    )
    assert (mixed["searched_on"], mixed["checked_on"], report["calibration_samples"]) == (2, 2, 16)
    # Times decide here whether the wide tensor has 16 bits, or what reads it is in float.
    (exception,) = mixed["exceptions"]
    assert exception["gained"] > 0.01
    assert mixed["int8_milliseconds"] > 0
    assert isinstance(exception["milliseconds"], float)
    words = shlex.split(report["command"])
    assert not {"--max-drop", *times} & set(words)
    assert set(json.loads(Path("times.json").read_text(encoding="utf-8"))["float32"]) >= {"first", "third"}
    built = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert run(capsys, monkeypatch, *words[1:], "-o", "again")[0] == 0
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == built


def test_what_cannot_be_met_ends_with_code_1_and_writes_nothing(
    capsys: Capture, monkeypatch: Patch, command: list[object]
) -> None:
    Path("user.py").write_text(
        "def same(outputs, sample):\n    return (outputs['y'] == sample.float_outputs['y']).all()\n", encoding="utf-8"
    )
    code, text, _ = run(capsys, monkeypatch, *command, "--max-drop", "0.5%", "--metric", "user.py:same", "--json")
    error = json.loads(text)["error"]
    assert (code, error["kind"], error["exit_code"]) == (1, "QuantizationError", 1)
    assert "--max-drop 0.5% can't be met: the best that was reached is user.py:same 0, where float" in error["message"]
    assert "Nothing was written." in error["message"]
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": "half"}, OptionError, r"--max-drop is 'half'; expected how much worse"),
        ({"metric": "cosine"}, OptionError, "--metric is about what --max-drop"),
        ({"operator_times": "t.json"}, OptionError, "--operator-times is about what --max-drop"),
        ({"max_drop": "1%", "annotation": "a.json"}, OptionError, "leave --annotation out"),
        ({"max_drop": "1%", "calibration": "c.json"}, OptionError, "leave --calibration out"),
        ({"max_drop": "1%", "metric": "user.py:none"}, MetricError, r"user\.py can't be read"),
        ({"max_drop": "1%", "metric": "kll"}, MetricError, r"expected sqnr, cosine, kl, or FILE\.py:FUNCTION"),
        ({"max_drop": "1%", "samples": iter([])}, OptionError, "read only once"),
    ],
    ids=["drop", "metric alone", "times alone", "annotation", "calibration", "no file", "no metric", "iterator"],
)
def test_what_cannot_be_searched_for_is_refused_before_the_import(
    tmp_path: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline.build(tmp_path / "no.onnx", **{"samples": [], "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_a_function_of_python_is_a_metric_and_programs_are_quantized(command: list[object]) -> None:
    def close(outputs: dict[str, Array], sample: MeasuredSample) -> float:
        return -float(np.abs(outputs["y"] - sample.float_outputs["y"]).mean())

    made = pipeline.quantize_within(
        pipeline.load("wide.onnx"), "samples.npy", 100.0, close, effort="none", hold_back=0.5
    )
    assert made.found.metric == "close"
    assert (made.found.checked_on, made.quantized.table.samples) == (5, 10)
    assert -100 < made.found.mixed.checked.value < made.found.float_value == 0
    record = OperatorTimes(model_sha256="another", target="host", float32={}, int8={}, int16={})
    Path("times.json").write_text(to_json(record), encoding="utf-8")
    with pytest.raises(OptionError, match=r"times\.json were measured of another model"):
        measured_times(made.without, Path("times.json"), [], print)
    with pytest.raises(OptionError, match="float's value of close is 0"):
        pipeline.quantize_within(made.without.source, "samples.npy", "1%", close, effort="none")


def test_a_share_that_holds_back_too_few_is_refused(command: list[object]) -> None:
    few = [np.zeros((3, 12, 12), "float32")] * 5
    with pytest.raises(SampleError, match="at least two batches of samples"):
        pipeline.build("wide.onnx", few, max_drop=0.01, verify_import=False, effort="none")
