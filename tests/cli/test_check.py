"""The check of an int8 model: what it is measured on, and that it can fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import pipeline
from pipeline.errors import OptionError, QuantizationError, SampleError
from tests.cli.test_images import run
from tests.models import tiny_network


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(tiny_network(), path)
    return path


def arrays(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((3, 12, 12)).astype("float32") for _ in range(count)]


def folder(path: Path, samples: list[np.ndarray]) -> Path:
    path.mkdir()
    for i, sample in enumerate(samples):
        np.save(path / f"{i:02}.npy", sample)
    return path


def test_what_is_held_back_is_measured_on_and_not_calibrated_with(model: Path, tmp_path: Path) -> None:
    samples = arrays(20)
    report = pipeline.build(model, samples, hold_back=0.2, output=tmp_path / "held", verify_import=False)
    assert report.calibration_samples == 16
    assert report.agreement is not None
    assert report.agreement.where() == "4 samples that were held back"
    left = [s for i, s in enumerate(samples) if i % 5 != 4]
    assert pipeline.quantize(pipeline.load(model), left).table.to_json() == Path(
        report.files["calibration table"]
    ).read_text(encoding="utf-8")


def test_samples_to_measure_on_are_given(model: Path, tmp_path: Path) -> None:
    checks = folder(tmp_path / "checks", arrays(20, seed=1))
    report = pipeline.build(model, arrays(3), check_samples=checks, output=tmp_path / "out", verify_import=False)
    assert report.agreement is not None
    assert report.agreement.where() == f"20 samples of {checks}"
    assert report.calibration_samples == 3


def test_samples_to_measure_on_that_do_not_fit_are_refused_before_the_work(model: Path, tmp_path: Path) -> None:
    checks = folder(tmp_path / "checks", [np.zeros((3, 12, 11), "float32")])
    for given, message in ((checks, r"00\.npy: input 'x' has the shape"), (tmp_path / "none", "doesn't exist")):
        with pytest.raises(SampleError, match=message):
            pipeline.build(model, arrays(3), check_samples=given, output=tmp_path / "out", verify_import=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_such_it_is_said_that_calibration_samples_were_measured_on(model: Path, tmp_path: Path) -> None:
    options = {"output": tmp_path / "out", "verify_import": False}
    some = pipeline.build(model, arrays(20), **options)
    every = pipeline.build(model, arrays(20), min_sqnr=1, **options)
    assert [r.agreement.where() for r in (some, every) if r.agreement is not None] == [
        "16 of the calibration samples",
        "20 of the calibration samples",
    ]
    assert every.missed == ()
    every.require()


def test_a_model_that_is_too_far_from_float_ends_with_code_1_and_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    samples, out = folder(tmp_path / "samples", arrays(4)), tmp_path / "out"
    command = ["build", model, "--samples", samples, "-o", out, "--no-verify-import", "--json"]
    assert run(capsys, monkeypatch, *command, "--min-sqnr", 5, "--min-agreement", 0)[0] == 0
    code, text, error = run(capsys, monkeypatch, *command, "--min-sqnr", 200, "--min-agreement", 0.1)
    assert code == 1
    report = json.loads(text)
    (missed,) = report["missed"]
    assert (report["error"]["kind"], report["error"]["exit_code"]) == ("QuantizationError", 1)
    assert [Path(library["path"]).exists() for library in report["libraries"]] == [True]
    assert " dB on 4 of the calibration samples; 200 dB were asked for." in missed
    assert missed in " ".join(error.split())
    assert "The libraries were written all the same." in " ".join(error.split())


def test_a_report_refuses_what_was_missed(model: Path, tmp_path: Path) -> None:
    report = pipeline.build(model, arrays(2), min_sqnr=200, output=tmp_path / "out", verify_import=False)
    with pytest.raises(QuantizationError, match="200 dB were asked for"):
        report.require()


def generator() -> Iterator[np.ndarray]:
    yield from arrays(2)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (generator, {"min_sqnr": 1, "check": False}, "need the check"),
        (generator, {"hold_back": 0.7}, "it must be at most 0.5"),
        (generator, {"min_sqnr": -1}, "must be at least 0"),
        (generator, {"min_agreement": 95}, "it must be at most 1"),
    ],
    ids=["no check", "share", "negative", "percent"],
)
def test_what_cannot_be_checked_is_refused(
    model: Path, tmp_path: Path, samples: object, options: dict[str, float], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline.build(model, samples, output=tmp_path / "out", verify_import=False, **options)


def test_samples_that_can_be_read_only_once_are_refused_before_the_work(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"read only once.*Give a function"):
        pipeline.build(model, generator(), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = pipeline.build(model, generator(), output=tmp_path / "out", check=False, verify_import=False)
    assert report.agreement is None


@pytest.mark.parametrize("samples", [arrays(2), generator], ids=["list", "generator"])
def test_a_part_that_is_empty_is_an_error_before_the_work(model: Path, tmp_path: Path, samples: object) -> None:
    done: list[str] = []
    with pytest.raises(pipeline.PipelineError, match=r"None of the 2 samples in the given .* is in the part"):
        pipeline.build(
            model, samples, hold_back=0.1, output=tmp_path / "out", progress=lambda what, *_: done.append(what)
        )
    assert done == ["importing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "kll"}, "Unknown calibration algorithm 'kll'.*Did you mean 'kl'"),
        ({"algorithm_options": {"kepd": 0.9}}, "Unknown option of the calibration algorithm auto 'kepd'"),
        (
            {"bias_correction": True, "calibration": "table.json", "samples": None},
            r"bias_correction \(--bias-correction\): .*statistics",
        ),
    ],
    ids=["algorithm", "option", "correction with a table alone"],
)
def test_options_that_calibration_cannot_follow_are_refused_before_the_import(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline.build(tmp_path / "no.onnx", **{"samples": arrays(2), "output": tmp_path / "out", **options})


def test_odd_samples_are_warned_of(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline.quantize(pipeline.load(model), [np.zeros((3, 12, 12), "float32")] * 2)
    assert "Calibrated with 2 samples only" in caplog.text
    assert "All 2 samples are the same" in caplog.text
