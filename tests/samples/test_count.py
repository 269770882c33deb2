"""How many feeds there will be, if that is known before samples are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.ir.program import TensorSpec
from pipeline.samples import Samples, feed_count, feeds

ROW = np.zeros(3, "float32")


def one(batch: int = 1) -> list[TensorSpec]:
    return [TensorSpec("x", (batch, 3), "float32")]


def generator() -> Iterator[np.ndarray]:
    yield from [ROW] * 5


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("limit", [(None, None), (1, 3), (2, 2), (4, 100)])
@pytest.mark.parametrize(
    "samples",
    [[ROW] * 5, [ROW[None]] * 5, [np.zeros((4, 3), "float32")] * 5, [(ROW, 1)] * 5],
    ids=["single", "with the batch axis", "batches", "labelled"],
)
def test_the_count_is_that_of_the_feeds(samples: Samples, limit: tuple[int | None, int | None], batch: int) -> None:
    assert feed_count(samples, one(batch), *limit) == len(list(feeds(samples, one(batch), *limit)))


def test_a_folder_is_counted(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", ROW)
    assert feed_count(tmp_path, one()) == 3


def test_samples_that_are_drawn_once_are_not_touched() -> None:
    drawn = generator()
    assert feed_count(drawn, one()) is None
    assert len(list(drawn)) == 5
    assert feed_count(generator, one()) is None


@pytest.mark.parametrize("batch", [1, 2])
def test_a_generator_is_counted_on_to_give_what_is_asked_for(batch: int) -> None:
    counted = feed_count(generator, one(batch), batch_size=2, batch_nums=2)
    assert counted == len(list(feeds(generator, one(batch), batch_size=2, batch_nums=2)))
