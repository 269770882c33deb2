"""Metrics: what they are by definition, and what is said of a user's that fails."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.metrics import MeasuredSample, Tally, divergence, load_metric, ranking_of
from pipeline.errors import MetricError

SAMPLE = MeasuredSample("samples/3.npy", {"x": np.zeros(1)}, {"y": np.array([[0.75, 0.25]], "float32")})


@pytest.mark.parametrize(
    ("expected", "actual", "nats"),
    [
        ([[0.5, 0.5]], [[0.25, 0.75]], 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ([[1.0, 0.0]], [[0.5, 0.5]], math.log(2)),
        ([[math.log(3), 0.0]], [[0.0, 0.0]], 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ([[7.0, 7.0], [0.0, math.log(3)]], [[9.0, 9.0], [0.0, math.log(3)]], 0.0),
        ([[5]], [[6]], 0.0),
    ],
    ids=["probabilities", "certainty", "scores", "shifted scores", "whole numbers"],
)
def test_divergence_is_kullbacks_and_leiblers(
    expected: list[list[float]], actual: list[list[float]], nats: float
) -> None:
    dtype = "int64" if isinstance(expected[0][0], int) else "float32"
    found = divergence(np.array(expected, dtype), np.array(actual, dtype))
    assert found == pytest.approx(nats, abs=1e-6)


def write(folder: Path, text: str) -> str:
    (folder / "user.py").write_text(text, encoding="utf-8")
    return f"{folder / 'user.py'}:score"


def test_a_users_metric_gets_outputs_and_sample(tmp_path: Path) -> None:
    metric = load_metric(
        write(tmp_path, "def score(outputs, sample):\n    return (outputs['y'] - sample.float_outputs['y']).max()\n")
    )
    assert metric({"y": np.array([[1.0, 0.0]], "float32")}, SAMPLE, "tensor 't' alone quantized") == 0.25


def test_more_of_a_users_metric_is_better(tmp_path: Path) -> None:
    ranking = ranking_of(load_metric(write(tmp_path, "def score(outputs, sample):\n    return 1\n")))
    best, worse = Tally(count=2, own=2.0), Tally(count=2, own=1.5)
    assert (ranking.value(worse), ranking.cost(worse, best), ranking.cost(best, best)) == (0.75, 0.25, 0.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise KeyError('label')\n", r"raised KeyError .*'label' \(.*user\.py, line 2\)"),
        ("    return float('nan')\n", "returned nan"),
        ("    return float('inf')\n", "returned inf"),
        ("    return 'good'\n", "returned str"),
        ("    return None\n", "returned NoneType"),
        ("    return 1j\n", "returned complex"),
        ("    raise SystemExit(0)\n", "raised SystemExit .* 0 "),
    ],
    ids=["raises", "NaN", "infinite", "text", "nothing", "complex", "exits"],
)
def test_a_metric_that_fails_is_named_with_sample_and_tensor(tmp_path: Path, body: str, message: str) -> None:
    metric = load_metric(write(tmp_path, f"def score(outputs, sample):\n{body}"))
    with pytest.raises(MetricError, match=message) as raised:
        metric({}, SAMPLE, "tensor 't4' alone quantized")
    assert all(text in str(raised.value) for text in ("user.py:score", "samples/3.npy", "tensor 't4' alone"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("psnr", "expected sqnr, cosine, kl, or FILE.py:FUNCTION"),
        ("none.py:score", "none.py can't be read"),
        ("user.py:scores", "Unknown function 'scores'.*Did you mean 'score'"),
        ("broken.py:score", r"broken\.py raised ZeroDivisionError"),
        ("script.py:score", r"script\.py raised SystemExit"),
    ],
    ids=["unknown", "missing", "no such function", "broken file", "script that exits"],
)
def test_a_metric_that_cannot_be_loaded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def score(outputs, sample):\n    return 1\n")
    Path("broken.py").write_text("1 / 0\n", encoding="utf-8")
    Path("script.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    with pytest.raises(MetricError, match=message):
        load_metric(name)
