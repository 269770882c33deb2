"""Blocks have the feeds that `named_feeds` yields, whether they hold them or name their files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SampleError
from pipeline.ir.program import TensorSpec
from pipeline.samples import Images, Samples, hold_back_filter, named_feeds
from pipeline.samples.blocks import blocks

INPUTS = (TensorSpec("x", (2, 3, 4), "float32"),)
SAMPLES = 11

random = np.random.default_rng(0)
ARRAYS = [random.standard_normal((3, 4)).astype("float32") for _ in range(SAMPLES)]


def as_list(folder: Path) -> Samples:
    return ARRAYS


def as_generator(folder: Path) -> Samples:
    return lambda: ((array, "label") for array in ARRAYS)


def as_files(folder: Path) -> Samples:
    for i, array in enumerate(ARRAYS):
        np.savez(folder / f"{i:02}.npz", x=array[None] if i % 2 else array)
    return Images(folder)


def as_whole_batches(folder: Path) -> Samples:
    for i in range(0, SAMPLES - 1, 2):
        np.save(folder / f"{i:02}.npy", np.stack(ARRAYS[i : i + 2]))
    return folder


def as_files_of_several(folder: Path) -> Samples:
    for i in range(0, SAMPLES, 4):
        np.save(folder / f"{i:02}.npy", np.stack(ARRAYS[i : i + 4]))
    return folder


FORMS = {as_list: False, as_generator: False, as_files: True, as_whole_batches: True, as_files_of_several: False}
"""Forms of samples, and whether blocks name their files."""


@pytest.mark.parametrize(
    "options",
    [{}, {"part": hold_back_filter(0.5)}, {"batch_nums": 3, "batch_size": 2}, {"batch_nums": 4}],
    ids=["all", "every other", "six in pairs", "four"],
)
@pytest.mark.parametrize("form", FORMS)
def test_blocks_have_the_same_feeds(
    form: Callable[[Path], Samples], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = form(tmp_path)
    expected = list(named_feeds(samples, INPUTS, **options))
    made = list(blocks(samples, INPUTS, 2, **options))
    assert [block.first for block in made] == list(range(0, len(expected), 2))
    assert all((block.files is not None) is FORMS[form] for block in made)
    # A worker's folder may be another one.
    monkeypatch.chdir("/")
    found = [item for block in made for item in block.feeds(INPUTS)]
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, feed), (_, wanted) in zip(found, expected, strict=True):
        assert feed.keys() == wanted.keys()
        assert feed["x"].tobytes() == wanted["x"].tobytes()


def test_samples_that_fill_no_batch_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = as_files(tmp_path)
    with caplog.at_level(logging.WARNING):
        list(blocks(samples, INPUTS, 2))
    assert "The last sample in" in caplog.text


def test_no_samples_are_the_usual_error(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", ARRAYS[0])
    with pytest.raises(SampleError, match="only 1 of the 2 that one batch takes"):
        next(blocks(tmp_path, INPUTS, 2))
