"""Statistics of tensors."""

from __future__ import annotations

import numpy as np

from pipeline.quantization.statistics import ChannelMeans


def test_means_are_of_each_channel_over_all_batches() -> None:
    batches = [np.random.default_rng(i).standard_normal((2, 3, 4, 5)).astype("float32") for i in range(3)]
    seen, other = ChannelMeans(), ChannelMeans()
    seen.update(batches[0])
    for batch in batches[1:]:
        other.update(batch)
    seen.merge(other)
    expected = np.concatenate(batches).astype("float64").mean(axis=(0, 1, 2))
    np.testing.assert_allclose(seen.means, expected, rtol=1e-12)


def test_a_tensor_without_values_has_the_mean_zero() -> None:
    seen = ChannelMeans()
    seen.update(np.zeros((0, 3), "float32"))
    seen.merge(ChannelMeans())
    assert seen.means.tolist() == [0.0]
