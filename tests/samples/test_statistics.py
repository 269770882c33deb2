"""Warnings of unusual samples, and none for usual ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ir.program import TensorSpec
from pipeline.samples.statistics import FEW_SAMPLES, SampleStatistics

INPUTS = (TensorSpec("x", (1, 4, 4), "float32"), TensorSpec("size", (1, 2), "float32"))


def noise(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    size = np.array([[4, 4]], "float32")
    return [{"x": random.standard_normal((1, 4, 4)).astype("float32"), "size": size} for _ in range(count)]


def told(feeds: list[dict[str, np.ndarray]]) -> list[str]:
    statistics = SampleStatistics(INPUTS)
    for i, feed in enumerate(feeds):
        statistics.update(f"sample {i}", feed, 1)
    return statistics.warnings()


def test_enough_different_samples_are_nothing_to_speak_of() -> None:
    assert told(noise(FEW_SAMPLES)) == []


@pytest.mark.parametrize(("count", "number"), [(1, "1 sample"), (FEW_SAMPLES - 1, "31 samples")])
def test_few_samples(count: int, number: str) -> None:
    (text,) = told(noise(count))
    assert f"Calibrated with {number} only" in text


def test_samples_that_are_all_the_same() -> None:
    assert told(noise(1) * FEW_SAMPLES) == ["All 32 samples are the same. Give different ones."]
    assert told([*noise(1) * FEW_SAMPLES, *noise(2)]) == []


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_constant_samples_are_named(level: float) -> None:
    feeds = noise(FEW_SAMPLES)
    feeds[3]["x"] = np.full((1, 4, 4), level, "float32")
    assert told(feeds) == [
        f"Sample 3 is {level:g} throughout, in input 'x': that says nothing about what the model will see."
    ]
    feeds[7]["x"] = feeds[3]["x"]
    assert "Sample 3 is" in told(feeds)[0]
    assert ", and 1 more are such" in told(feeds)[0]
