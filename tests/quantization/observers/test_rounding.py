"""Errors and ranges, held against quantization written out value by value."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.quantization.observers.histogram import Histogram
from pipeline.quantization.observers.readers import AS_IT_IS, Array, Reader
from pipeline.quantization.observers.rounding import AbsoluteErrors, SquaredErrors
from pipeline.quantization.observers.search import best_range
from pipeline.quantization.spec import QuantizationSpec, scales_over, spread

SPECS = [
    QuantizationSpec(signed=False, symmetric=False),
    QuantizationSpec(signed=True, symmetric=True),
    QuantizationSpec(signed=True, symmetric=False),
]


def hard_swish(values: Array) -> Array:
    return values * np.clip(values + 3, 0, 6) / 6


def observed(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.update(values.astype("float32"))
    return histogram


def quantized(values: Array, scale: float, zero_point: float, steps: int = 255) -> Array:
    return (np.clip(np.rint(values / scale) + zero_point, 0, steps) - zero_point) * scale


def squared_error(values: Array, reader: Reader, scale: float, zero_point: float) -> float:
    wanted, found = reader(values), reader(quantized(values, scale, zero_point))
    return float(((wanted - found) ** 2).sum() / (wanted**2).sum())


def absolute_error(values: Array, reader: Reader, scale: float, zero_point: float) -> float:
    wanted, found = reader(values), reader(quantized(values, scale, zero_point))
    return float(np.abs(wanted - found).sum() / np.abs(wanted).sum())


@pytest.mark.parametrize("reader", [*AS_IT_IS, hard_swish])
def test_errors_are_those_of_the_values(reader: Reader) -> None:
    values = np.random.default_rng(0).normal(scale=4, size=200_000).astype("float32").astype("float64")
    scales, zero_points = np.array([0.05, 0.1, 0.2]), np.array([100.0, 128.0, 40.0])
    squared = SquaredErrors(observed(values), (reader,), 255)(scales, zero_points)
    absolute = AbsoluteErrors(observed(values), (reader,), 255)(scales, zero_points)
    choices = list(zip(scales, zero_points, strict=True))
    np.testing.assert_allclose(squared, [squared_error(values, reader, *c) for c in choices], rtol=0.02)
    np.testing.assert_allclose(absolute, [absolute_error(values, reader, *c) for c in choices], rtol=0.02)


def test_errors_of_several_readers_are_added() -> None:
    histogram = observed(np.random.default_rng(0).normal(size=10_000))
    choice = np.array([0.02]), np.array([128.0])
    for errors in (SquaredErrors, AbsoluteErrors):
        single = [errors(histogram, (reader,), 255)(*choice) for reader in (*AS_IT_IS, hard_swish)]
        np.testing.assert_allclose(errors(histogram, (*AS_IT_IS, hard_swish), 255)(*choice), sum(single), rtol=1e-9)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("reader", [*AS_IT_IS, hard_swish])
def test_no_range_of_a_fine_grid_is_much_better(spec: QuantizationSpec, reader: Reader) -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(1, 2, 20_000), random.normal(0, 20, 200)])
    values = values if spec.signed else np.abs(values)
    parameters = spread(*best_range(observed(values), spec, SquaredErrors(observed(values), (reader,), 255)), spec)
    found = squared_error(values, reader, parameters.parameters.scale, parameters.parameters.zero_point)
    shares = np.linspace(0.02, 1, 50)
    lows, highs = (g.reshape(-1) for g in np.meshgrid(shares * min(values.min(), 0), shares * values.max()))
    others = [squared_error(values, reader, *c) for c in zip(*scales_over(lows, highs, spec), strict=True)]
    assert found <= 1.05 * min(others)


def test_a_range_follows_the_function_that_reads_it() -> None:
    values = np.random.default_rng(0).normal(scale=60, size=100_000)
    histogram, spec = observed(values), SPECS[2]
    low, high = best_range(histogram, spec, SquaredErrors(histogram, (hard_swish,), spec.steps))
    assert -10 < low <= 0
    assert high > 150


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("values", [np.zeros(5), np.empty(0)])
def test_a_tensor_that_is_always_zero_has_no_range(spec: QuantizationSpec, values: np.ndarray) -> None:
    histogram = observed(values)
    assert best_range(histogram, spec, SquaredErrors(histogram, AS_IT_IS, spec.steps)) == (0.0, 0.0)
