"""From samples to a table, and from a table to its file and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SampleError, TableError
from pipeline.quantization.annotate import annotate
from pipeline.quantization.calibrate import CalibrateOptions, CalibrationTable, calibrate
from pipeline.quantization.table import make_entry
from tests.models import ModelBuilder, import_test_model, small_network
from tests.properties import examples


def samples(count: int = 4) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.standard_normal((1, 3, 12, 12)).astype("float32")


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    program = import_test_model(small_network())
    return calibrate(program, annotate(program), samples)


def test_every_tensor_that_needs_a_scale_gets_one(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    assert list(table.tensors) == [t.name for t in annotate(program).calibrated()]
    assert table.samples == 4


def test_the_range_seen_is_that_of_the_data(table: CalibrationTable) -> None:
    everything = np.concatenate(list(samples()))
    entry = next(iter(table.tensors.values()))
    assert (entry.minimum, entry.maximum) == (everything.min(), everything.max())


def test_the_same_samples_give_the_same_table(table: CalibrationTable) -> None:
    program = import_test_model(small_network())
    assert calibrate(program, annotate(program), samples) == table


def test_abs_max_covers_what_was_seen() -> None:
    program = import_test_model(small_network())
    found = calibrate(program, annotate(program), samples, CalibrateOptions(algorithm="abs_max"))
    for entry in found.tensors.values():
        assert entry.threshold == max(abs(entry.minimum), abs(entry.maximum))


def test_a_model_that_overflows_is_an_error() -> None:
    b = ModelBuilder()
    weight = np.full((2, 3, 1, 1), 3e38, "float32")
    y = b.node("Conv", b.node("Conv", "x", b.constant(weight)), b.constant(np.ones((2, 2, 1, 1), "float32")))
    program = import_test_model(b.model({"x": (1, 3, 2, 2)}, y))
    with pytest.raises(SampleError, match="is NaN or infinite for sample 0"):
        calibrate(program, annotate(program), [np.full((1, 3, 2, 2), 9.0, "float32")])


def test_values_that_are_not_finite_are_told_by_the_models_own_name() -> None:
    b = ModelBuilder()
    y = b.node("Conv", b.node("Log", "x", name="logarithm"), b.constant(np.ones((2, 3, 2, 2), "float32")))
    program = import_test_model(b.model({"x": (1, 3, 4, 4)}, y))
    with pytest.raises(SampleError, match="Tensor 'logarithm' is NaN or infinite"):
        calibrate(program, annotate(program), [np.zeros((1, 3, 4, 4), "float32")])


def test_progress_counts_batches() -> None:
    program = import_test_model(small_network())
    counted: list[int] = []
    calibrate(program, annotate(program), samples, progress=counted.append)
    assert counted == [1, 2, 3, 4]


def test_a_table_survives_its_file(table: CalibrationTable, tmp_path: Path) -> None:
    table.save(tmp_path / "t.json")
    assert CalibrationTable.load(tmp_path / "t.json") == table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"scale"', '"skale"', "skale"),
        ('"zero_point": ', '"zero_point": 9', "zero_point"),
        ('"schema_version": 1', '"schema_version": 2', "schema_version"),
        ("{", "", "JSON"),
    ],
    ids=["unknown_key", "range", "version", "syntax"],
)
def test_a_table_that_does_not_fit_is_refused(
    table: CalibrationTable, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(table.to_json().replace(old, new, 1).replace('"zero_point": 90', '"zero_point": 990', 1))
    with pytest.raises(TableError, match=message):
        CalibrationTable.load(path)


ranges = st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).map(sorted)


@given(ranges, st.floats(0.01, 1), st.booleans(), st.booleans())
@examples(200)
def test_zero_has_an_exact_code_and_codes_cover_what_is_not_clipped(
    limits: list[float], kept: float, signed: bool, symmetric: bool
) -> None:
    low, high = limits if signed else (abs(v) for v in limits)
    low, high = min(low, high), max(low, high)
    threshold = kept * max(abs(low), abs(high))
    entry = make_entry("t", threshold, low, high, signed=signed, symmetric=symmetric, algorithm="test")
    assert 0 <= entry.zero_point <= 255
    smallest, largest = (entry.scale * (code - entry.zero_point) for code in (0, 255))
    step = entry.scale * 1.001
    assert smallest <= max(low, -threshold, -1e30) + step or low > 0
    assert largest >= min(high, threshold) - step


def test_an_unsigned_tensor_uses_all_steps_from_zero() -> None:
    entry = make_entry("t", 5.1, 0.2, 5.1, signed=False, symmetric=False, algorithm="test")
    assert (entry.zero_point, entry.scale) == (0, np.float32(5.1 / 255))


def test_a_symmetric_tensor_has_its_zero_in_the_middle() -> None:
    entry = make_entry("t", 2.54, -1.0, 2.54, signed=True, symmetric=True, algorithm="test")
    assert (entry.zero_point, entry.scale) == (128, np.float32(2.54 / 127))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("limits", [(0.0, 0.0), (np.inf, -np.inf)], ids=["zero", "no elements"])
def test_a_tensor_that_is_always_zero_gets_scale_one(limits: tuple[float, float], symmetric: bool) -> None:
    entry = make_entry("t", 0.0, *limits, signed=True, symmetric=symmetric, algorithm="test")
    assert (entry.zero_point, entry.scale) == (128 if symmetric else 0, 1.0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-31, 1e-29])
def test_a_tensor_that_is_nearly_zero_gets_the_smallest_scale(magnitude: float, symmetric: bool) -> None:
    entry = make_entry("t", magnitude, -magnitude, magnitude, signed=True, symmetric=symmetric, algorithm="test")
    assert 1e-30 < entry.scale <= np.float32(1.001e-30)
    codes = np.clip(np.round(np.array([-magnitude, 0.0, magnitude]) / entry.scale) + entry.zero_point, 0, 255)
    np.testing.assert_allclose((codes - entry.zero_point) * entry.scale, [-magnitude, 0, magnitude], atol=0.51e-30)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_tensor_that_is_too_large_for_its_codes_is_named(symmetric: bool) -> None:
    largest = float(np.finfo("float32").max)
    with pytest.raises(TableError, match=r"Tensor 't' has values so large .*--skip t"):
        make_entry("t", largest, -largest, largest, signed=True, symmetric=symmetric, algorithm="test")
    assert make_entry("t", 2e32, 0, 2e32, signed=False, symmetric=symmetric, algorithm="test").scale < 1e30
