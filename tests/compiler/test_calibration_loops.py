"""What calibration computes of all values is what NumPy's own functions say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compiler import calibration_loops
from pipeline.compiler.calibration_loops import NotFiniteError, channel_sums, extent, histogram


def at_offset(values: np.ndarray, offset: int) -> np.ndarray:
    """Return the values in memory that begins so many bytes behind an address that vectors could be loaded from."""
    memory = np.empty(values.nbytes + 128, "uint8")
    start = -memory.ctypes.data % 64 + offset
    placed = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


# Fewer values than a vector has, than are computed at once, and than several threads are worth.
@pytest.mark.parametrize("size", [1, 5, 1023, 1024, 5000, 2**14 + 3, 2**17 + 5])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_values_are_counted_in_equal_bins(size: int, offset: int) -> None:
    values = at_offset(np.random.default_rng(size).normal(size=size).astype("float32"), offset)
    values[::3] = 0
    scale, bins = 2.0**5, 256
    # Half-open bins on both sides of zero, which hold the end that is nearer to zero.
    inner = np.arange(1, bins) / scale
    above = np.searchsorted(inner, values[values > 0], side="right")
    below = np.searchsorted(inner, -values[values < 0], side="right")
    expected = np.bincount(np.concatenate([bins + above, bins - 1 - below]), minlength=2 * bins)
    counted = histogram(values, scale, bins)
    np.testing.assert_array_equal(counted.counts, expected)
    assert counted.zeros == np.count_nonzero(values == 0)
    assert (counted.least, counted.largest) == (values.min(), values.max())


@pytest.mark.parametrize("size", [1, 17, 1024, 1024 + 17, 2**17 + 5])
def test_values_beyond_all_bins_are_in_the_last_ones_and_their_extent_is_told(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype("float32")
    values[0], values[-1] = 2.0**100, -3e38 if size > 1 else 2.0**100
    counted = histogram(values, 1024.0, 256)
    assert (counted.least, counted.largest) == (values.min(), values.max())
    assert counted.counts.sum() == size
    assert counted.counts[0] == np.count_nonzero(values <= -255 / 1024)
    assert counted.counts[-1] == np.count_nonzero(values >= 255 / 1024)


@pytest.mark.parametrize("size", [1, 5, 16, 17, 1023])
@pytest.mark.parametrize("offset", [0, 4])
def test_the_least_and_the_largest_value_are_found_wherever_they_are(size: int, offset: int) -> None:
    values = at_offset(np.random.default_rng(size).normal(size=size).astype("float32"), offset)
    for place in {0, size // 2, size - 1}:
        for end in (-9.0, 9.0):
            values[place], before = end, values[place]
            assert extent(values) == (values.min(), values.max())
            values[place] = before


@pytest.mark.parametrize("size", [1, 16, 33, 1050])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(size: int, value: float) -> None:
    for place in range(size):
        values = np.zeros(size, "float32")
        values[place] = value
        with pytest.raises(NotFiniteError):
            extent(values)
        with pytest.raises(NotFiniteError):
            histogram(values, 1.0, 256)


def test_no_values_have_the_extent_that_any_other_extends() -> None:
    assert extent(np.zeros(0, "float32")) == (np.inf, -np.inf)


def test_loops_that_are_compiled_in_the_background_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[list[str]] = []
    compile_functions = calibration_loops.compile_functions
    monkeypatch.setattr(
        calibration_loops,
        "compile_functions",
        lambda *given: (compiled.append([*given[0]]), compile_functions(*given))[1],
    )
    calibration_loops._compiled.cache_clear()
    calibration_loops.compile_ahead()
    assert extent(np.arange(9, dtype="float32")) == (0, 8)
    assert channel_sums(np.ones((2, 3), "float32")).tolist() == [2, 2, 2]
    assert compiled == [["extent", "histogram", "channel_sums"]]


@pytest.mark.parametrize("shape", [(7, 1), (3, 5), (2, 3, 4, 64), (0, 4), (9,)])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_channels_are_summed_up_in_order(shape: tuple[int, ...], offset: int) -> None:
    values = at_offset(np.random.default_rng(0).normal(size=shape).astype("float32"), offset)
    expected = np.zeros(shape[-1])
    for row in values.reshape(-1, shape[-1]).astype("float64"):
        expected += row
    np.testing.assert_array_equal(channel_sums(values), expected, strict=True)
