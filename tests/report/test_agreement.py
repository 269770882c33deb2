"""A sentence for each requirement that isn't met, and none for the others."""

from __future__ import annotations

import math

import pytest

from pipeline.report.agreement import Agreement, shortfalls


@pytest.mark.parametrize(
    ("same", "sqnr", "asked", "missed"),
    [
        (0.9, 20.0, (None, None), ()),
        (0.9, 20.0, (20.0, 0.9), ()),
        (1.0, math.inf, (1e9, 1.0), ()),
        (
            0.9,
            19.96,
            (20.0, None),
            ("The signal to quantization noise ratio is 19.96 dB on 10 held back; 20 dB were asked for.",),
        ),
        (
            0.0,
            -math.inf,
            (0.0, None),
            ("The signal to quantization noise ratio is -inf dB on 10 held back; 0 dB were asked for.",),
        ),
        (
            0.0,
            math.nan,
            (0.0, None),
            ("The signal to quantization noise ratio is nan dB on 10 held back; 0 dB were asked for.",),
        ),
        (0.9, 20.0, (None, 0.95), ("The answer is the same as float's on 0.9 of 10 held back; 0.95 was asked for.",)),
    ],
    ids=["nothing", "just", "equal", "noise", "no signal", "not a number", "answers"],
)
def test_shortfalls(
    same: float, sqnr: float, asked: tuple[float | None, float | None], missed: tuple[str, ...]
) -> None:
    assert shortfalls(Agreement(10, same, sqnr, "held back"), *asked) == missed
