"""What calibration computes of all values is what NumPy's own functions say."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compiler.calibration_loops import channel_sums, histogram


def at_offset(values: np.ndarray, offset: int) -> np.ndarray:
    """Return the values in memory that begins so many bytes behind an address that vectors could be loaded from."""
    memory = np.empty(values.nbytes + 128, "uint8")
    start = -memory.ctypes.data % 64 + offset
    placed = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


# Fewer values than a vector has, and than are computed at once.
@pytest.mark.parametrize("size", [0, 5, 1023, 1024, 5000, 2**14 + 3])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_values_are_counted_in_equal_bins(size: int, offset: int) -> None:
    values = at_offset(np.random.default_rng(size).normal(size=size).astype("float32"), offset)
    scale, bins = 2.0**5, 256
    # Half-open bins on both sides of zero, which hold the end that is nearer to zero.
    inner = np.arange(1, bins) / scale
    above = np.searchsorted(inner, values[values >= 0], side="right")
    below = np.searchsorted(inner, -values[values < 0], side="right")
    expected = np.bincount(np.concatenate([bins + above, bins - 1 - below]), minlength=2 * bins)
    np.testing.assert_array_equal(histogram(values, scale, bins), expected)


@pytest.mark.parametrize("shape", [(7, 1), (3, 5), (2, 3, 4, 64), (0, 4), (9,)])
@pytest.mark.parametrize("offset", [0, 4, 12])
def test_channels_are_summed_up_in_order(shape: tuple[int, ...], offset: int) -> None:
    values = at_offset(np.random.default_rng(0).normal(size=shape).astype("float32"), offset)
    expected = np.zeros(shape[-1])
    for row in values.reshape(-1, shape[-1]).astype("float64"):
        expected += row
    np.testing.assert_array_equal(channel_sums(values), expected, strict=True)
