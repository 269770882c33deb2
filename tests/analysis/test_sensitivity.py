"""The ranking: what costs most comes first, an interrupted run goes on to the very same result, and so on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.analysis.metrics import MeasuredSample, UserMetric
from pipeline.analysis.sensitivity import Sensitivity, measure_sensitivity, value_of
from pipeline.api import Quantized, quantize
from pipeline.errors import MetricError, OptionError
from pipeline.reference import execute
from tests.models import ModelBuilder, import_test_model, residual_network, tiny_network

Array = npt.NDArray[Any]


def stream(count: int, seed: int = 0) -> Iterator[tuple[str, dict[str, Array]]]:
    random = np.random.default_rng(seed)
    for i in range(count):
        yield f"sample {i}", {"x": random.standard_normal((1, 3, 12, 12)).astype("float32")}


@pytest.fixture(scope="module")
def tiny() -> Quantized:
    return quantize(import_test_model(tiny_network()), [feed for _, feed in stream(3)], algorithm="abs_max")


def answers(outputs: dict[str, Array], sample: MeasuredSample) -> float:
    return -float(np.abs(outputs["scores"] - sample.float_outputs["scores"]).max())


METRICS: dict[str, UserMetric | str] = {
    "sqnr": "sqnr",
    "cosine": "cosine",
    "kl": "kl",
    "user": UserMetric("user.py:answers", b"", answers),
}


def measured(tiny: Quantized, metric: UserMetric | str = "sqnr", count: int = 3, **more: Any) -> Sensitivity:
    return measure_sensitivity(tiny, stream(count), "samples", metric, **more)


@pytest.mark.parametrize("name", METRICS)
def test_what_costs_most_comes_first(tiny: Quantized, name: str) -> None:
    found = measured(tiny, METRICS[name])
    costs = [c.cost for c in found.costs]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 0
    assert sum(c.share for c in found.costs if c.kind != "layer") == pytest.approx(1)
    assert found.samples == 3


def test_a_wide_range_costs_most() -> None:
    # One channel of large values leaves no steps for the others.
    random = np.random.default_rng(0)
    b = ModelBuilder()
    first = random.standard_normal((8, 3, 1, 1)).astype("float32")
    first[0] *= 300
    second = random.standard_normal((8, 8, 1, 1)).astype("float32")
    second[:, 0] = 0
    wide = b.node("Conv", "x", b.constant(first), name="wide")
    y = b.node("Conv", b.node("Conv", wide, b.constant(second)), b.constant(second), name="y")
    samples = [feed for _, feed in stream(2)]
    model = quantize(import_test_model(b.model({"x": [1, 3, 12, 12]}, y)), samples, algorithm="abs_max")
    found = measure_sensitivity(model, stream(2), "samples", "sqnr")
    worst = next(c for c in found.costs if c.kind == "tensor")
    assert worst.name == "wide"
    assert worst.share > 0.9
    assert found.suggestion.keep_float == worst.keep_float
    assert found.suggestion.share > 0.9


class Interruption(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize(("runs", "name"), [(0, "sqnr"), (5, "kl"), (17, "user")])
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path: Path, tiny: Quantized, runs: int, name: str) -> None:
    state, metric = tmp_path / "state.json", METRICS[name]

    def interrupt(done: int, each: int) -> None:
        if done > runs:
            raise Interruption

    with pytest.raises(Interruption):
        measured(tiny, metric, state=state, progress=interrupt)
    counted: list[int] = []
    resumed = measured(tiny, metric, state=state, progress=lambda done, each: counted.append(done))
    assert resumed == measured(tiny, metric)
    # What is finished is read and not run again.
    assert measured(tiny, metric, state=state) == resumed
    assert counted[-1] == len(counted)


def test_a_finished_run_can_go_on_with_more_samples(tmp_path: Path, tiny: Quantized) -> None:
    state = tmp_path / "state.json"
    measured(tiny, count=2, state=state)
    assert measured(tiny, count=3, state=state) == measured(tiny, count=3)
    with pytest.raises(OptionError, match="holds 3 samples, and 2 are asked for"):
        measured(tiny, count=2, state=state)


def test_a_state_of_something_else_is_refused(tmp_path: Path, tiny: Quantized) -> None:
    state = tmp_path / "state.json"
    measured(tiny, state=state)
    with pytest.raises(OptionError, match="other samples: sample 0"):
        measure_sensitivity(tiny, stream(3, seed=1), "samples", "sqnr", state)
    other = quantize(tiny.source, [feed for _, feed in stream(3, seed=2)], algorithm="abs_max")
    for model, metric in ((other, "sqnr"), (tiny, METRICS["user"])):
        with pytest.raises(OptionError, match="another model, calibration, metric or other options"):
            measure_sensitivity(model, stream(3), "samples", metric, state)
    state.write_text('{"schema_version": 2}', encoding="utf-8")
    with pytest.raises(OptionError, match="state of a sensitivity run"):
        measured(tiny, state=state)


def test_a_metric_that_fails_names_tensor_and_sample(tiny: Quantized) -> None:
    def fails(outputs: dict[str, Array], sample: MeasuredSample) -> float:
        if np.array_equal(outputs["scores"], sample.float_outputs["scores"]):
            return 1.0
        return float("nan")

    with pytest.raises(MetricError, match=r"user\.py:fails returned nan for sample 0, with .* alone quantized"):
        measured(tiny, UserMetric("user.py:fails", b"", fails))


def test_a_model_that_rounds_nothing_has_nothing_to_leave_in_float() -> None:
    b = ModelBuilder()
    y = b.node("Conv", "x", b.constant(np.ones((2, 3, 1, 1), "float32")))
    zeros = {"x": np.zeros((1, 3, 12, 12), "float32")}
    model = quantize(import_test_model(b.model({"x": [1, 3, 12, 12]}, y)), [zeros], algorithm="abs_max")
    found = measure_sensitivity(model, [("zeros", zeros)], "samples", "sqnr")
    assert [c.cost for c in found.costs] == [0.0] * len(found.costs)
    assert (found.suggestion.keep_float, found.suggestion.share) == ((), 0.0)


def test_the_int8_model_itself_is_measured_in_the_same_way() -> None:
    random = np.random.default_rng(0)
    feed = {"x": random.standard_normal((2, 3, 40, 40)).astype("float32")}
    model = quantize(import_test_model(residual_network()), [feed], algorithm="abs_max")
    exact, rounded = (execute(p, feed)["scores"].astype("float64") for p in (model.source, model.program))
    expected = 10 * np.log10((exact**2).sum() / ((exact - rounded) ** 2).sum())
    assert value_of(model, [("sample 0", feed)], "sqnr") == pytest.approx(expected, abs=0.01)
