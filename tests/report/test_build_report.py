"""What a build prints says what it was measured on."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.annotation import Annotation
from pipeline.report.agreement import compare
from pipeline.report.build_report import BuildReport


@pytest.mark.parametrize("described", ["of the calibration samples", "evaluation samples"])
def test_agreement_with_the_float_model_names_its_samples(described: str) -> None:
    scores = {"scores": np.array([[1.0, 2.0]], "float32")}
    agreement = compare(lambda _: scores, lambda _: scores, [{}, {}, {}], described)
    report = BuildReport("model", "kl", 3, Annotation(operators=(), tensors=()), (), {}, agreement)
    text = io.StringIO()
    Console(file=text, width=200).print(report.tables()[0])
    lines = [line for line in text.getvalue().splitlines() if f", on 3 {described}" in line]
    assert [("1.0000" in line, "inf dB" in line) for line in lines] == [(True, False), (False, True)]
