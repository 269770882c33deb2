"""The report of a build says what was measured, and on which samples."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
from rich.console import Console

from pipeline.analysis.mixed_precision import Measured, MixedPrecision, PrecisionException, Standing
from pipeline.quantization.annotate import Annotation
from pipeline.quantization.state import CorrectionOutcome
from pipeline.report.agreement import compare
from pipeline.report.build_report import BuildReport
from pipeline.report.build_tables import build_tables


@pytest.mark.parametrize("described", ["of the calibration samples", "evaluation samples"])
def test_agreement_with_the_float_model_names_its_samples(described: str) -> None:
    scores = {"scores": np.array([[1.0, 2.0]], "float32")}
    agreement = compare(lambda _: scores, lambda _: scores, [{}, {}, {}], described)
    report = BuildReport("model", "kl", 3, Annotation(operators=(), tensors=()), (), {}, agreement)
    text = io.StringIO()
    Console(file=text, width=200).print(build_tables(report)[0])
    lines = [" ".join(line.replace("│", "").split()) for line in text.getvalue().splitlines()]
    start = lines.index(f"compared with float on 3 {described}")
    assert lines[start + 1 :][:2] == ["same answer as float 1.0000", "signal to noise (SQNR) inf dB"]


def test_corrections_are_named_with_what_they_gained() -> None:
    outcome = CorrectionOutcome("bias_correction", True, 10.0, 12.5)
    report = BuildReport("model", "kl", 3, Annotation(operators=(), tensors=()), (), {}, corrections=(outcome,))
    text = io.StringIO()
    Console(file=text, width=200).print(build_tables(report)[0])
    assert "applied, 10.0 -> 12.5 dB on held-back samples" in text.getvalue()
    assert report.to_dict()["corrections"] == (dataclasses.asdict(outcome),)


MIXED = MixedPrecision(
    metric="SQNR, dB",
    max_drop="1%",
    inputs="samples that were held back",
    searched_on=7,
    checked_on=6,
    float_value=math.inf,
    int8=Measured(Standing(14.0, 0.04, 0.01), Standing(15.0, 0.0316, 0.01)),
    mixed=Measured(Standing(22.0, 0.0063, 0.01), Standing(21.0, 0.0079, 0.01)),
    exceptions=(PrecisionException("float", ("head",), ("head", "tail"), 0.02, 16.5, 0.125, 0.25),),
    times="estimated",
    evaluations=9,
    quantizations=2,
    int8_milliseconds=1.0,
    mixed_milliseconds=1.25,
)


def test_exceptions_are_shown_with_what_they_gained_and_cost() -> None:
    report = BuildReport("model", "kl", 3, Annotation(operators=(), tensors=()), (), {}, mixed=MIXED)
    text = io.StringIO()
    for table in build_tables(report, "pipeline build model.onnx --keep-float head"):
        Console(file=text, width=200).print(table)
    shown = [" ".join(line.replace("│", " ").split()) for line in text.getvalue().splitlines()]
    expected = (
        "all in int8 SQNR, dB 15, a drop of 0.0316; on those searched on 14, 0.04",
        "with exceptions SQNR, dB 21, a drop of 0.0079; on those searched on 22, 0.0063",
        "measured on 6 samples that were held back, 7 others searched on",
        "latency here, 1 thread 1.000 ms in int8, 1.250 ms with exceptions",
        "the same without a search pipeline build model.onnx --keep-float head",
        "float head and 1 that depend on it 16.5 0.02 12.5% +0.250",
    )
    assert set(expected) <= set(shown)
    assert report.to_dict()["mixed"]["keep_float"] == ("head",)
    assert dataclasses.replace(report, mixed=None).to_dict()["mixed"] is None


@pytest.mark.parametrize(
    ("expected", "actual", "decibels"),
    [
        ([[3.0, 4.0]], [[3.0, 4.5]], 20.0),
        ([[1.0, -np.inf, np.nan]], [[1.0, -np.inf, np.nan]], np.inf),
        ([[1.0, 2.0]], [[1.0, -np.inf]], -np.inf),
        ([[1.0, 2.0]], [[1.0, np.nan]], -np.inf),
        ([[1.0, np.inf]], [[1.0, -np.inf]], -np.inf),
        ([[0.0, 0.0]], [[0.0, 1.0]], -np.inf),
    ],
    ids=["noise", "equal", "one infinite", "one NaN", "opposite", "no signal"],
)
def test_noise_is_all_that_differs(expected: list[list[float]], actual: list[list[float]], decibels: float) -> None:
    outputs = [{"y": np.array(values, "float32")} for values in (expected, actual)]
    assert compare(lambda _: outputs[0], lambda _: outputs[1], [{}], "").sqnr_db == pytest.approx(decibels)


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_outputs_without_values_agree(shape: tuple[int, int]) -> None:
    empty = {"y": np.zeros(shape, "float32")}
    agreement = compare(lambda _: empty, lambda _: empty, [{"x": np.zeros((2, 3))}], "")
    assert (agreement.samples, agreement.same_argmax, agreement.sqnr_db) == (2, 1.0, np.inf)


@pytest.mark.parametrize(
    ("expected", "actual", "share"),
    [
        ([[1, 2, 0], [2, 1, 0]], [[1, 2, 0], [1, 2, 0]], 0.5),
        ([[1, 2], [0, 0], [0, 0]], [[2, 1], [0, 0], [0, 0]], 0.0),
        (1, 1, 1.0),
    ],
    ids=["one row for each", "time", "one number"],
)
def test_samples_are_counted_by_the_inputs_batch(expected: object, actual: object, share: float) -> None:
    outputs = [{"y": np.array(values, "float32")} for values in (expected, actual)]
    feeds = {"state": np.zeros(7), "x": np.zeros((2, 3))}
    agreement = compare(lambda _: outputs[0], lambda _: outputs[1], [feeds], "")
    assert (agreement.samples, agreement.same_argmax) == (2, share)
