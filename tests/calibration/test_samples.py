"""Samples in every form, and every way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.calibration.samples import feeds
from pipeline.errors import OptionError, SampleError
from pipeline.program import TensorSpec

ONE = (TensorSpec("x", (1, 3, 4), "float32"),)
TWO = (*ONE, TensorSpec("y", (1, 2), "int64"))
X, Y = np.ones((3, 4), "float32"), np.ones(2, "int64")


def collected(samples: Any, inputs: Any = ONE, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(feeds(samples, inputs, **options))


def test_a_folder_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", 2 * X)
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "c.npz", x=3 * X)
    assert [f["x"].flat[0] for f in collected(tmp_path)] == [1, 2, 3]


def test_a_generator_function() -> None:
    def generate() -> Iterator[np.ndarray]:
        yield X
        yield 2 * X

    assert len(collected(generate)) == 2


def test_the_batch_axis_may_be_there_or_not() -> None:
    assert [f["x"].shape for f in collected([X, X[None]])] == [(1, 3, 4)] * 2


def test_several_inputs_by_name_or_in_order() -> None:
    by_name, in_order = collected([{"y": Y, "x": X}, [X, Y]], TWO)
    np.testing.assert_equal(by_name, in_order)


def test_single_samples_are_stacked_to_the_models_batch() -> None:
    inputs = (TensorSpec("x", (2, 3, 4), "float32"),)
    assert [f["x"].shape for f in collected([X] * 5, inputs)] == [(2, 3, 4)] * 2


def test_batch_size_and_batch_nums_limit_the_samples() -> None:
    assert len(collected([X] * 10, batch_size=2, batch_nums=3)) == 6


def test_no_more_samples_are_drawn_than_are_used() -> None:
    drawn = []

    def generate() -> Iterator[np.ndarray]:
        for i in range(100):
            drawn.append(i)
            yield X

    collected(generate, batch_size=1, batch_nums=3)
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("samples", "inputs", "message"),
    [
        ([], ONE, "No samples to calibrate with: none in the given list"),
        ([X.astype("float64")], ONE, "Sample 0: input 'x' has the dtype float64; expected float32"),
        ([X, X[:2]], ONE, r"Sample 1: input 'x' has the shape \(2, 4\); expected \(1, 3, 4\)"),
        ([{"z": X}], ONE, r"Sample 0 holds \['z'\]; the model's inputs are \['x'\]"),
        ([{"x": X}], TWO, r"the model's inputs are \['x', 'y'\]"),
        ([X], TWO, r"arrays without names; the model's inputs are \['x', 'y'\]"),
        ([X * np.nan], ONE, "Sample 0: input 'x' holds NaN or infinity"),
        ([X * np.inf], ONE, "holds NaN or infinity"),
    ],
    ids=["none", "dtype", "shape", "name", "missing", "unnamed", "nan", "infinity"],
)
def test_samples_that_do_not_fit(samples: Any, inputs: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        collected(samples, inputs)


@pytest.mark.parametrize("option", ["batch_size", "batch_nums"])
def test_zero_batches_are_an_error(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} is 0"):
        collected([X], **{option: 0})


def test_too_few_samples_for_one_batch() -> None:
    with pytest.raises(SampleError, match="only 1 of the 2"):
        collected([X], (TensorSpec("x", (2, 3, 4), "float32"),))


def test_a_missing_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="doesn't exist"):
        collected(tmp_path / "none")
    with pytest.raises(SampleError, match=r"holds no \.npy or \.npz files"):
        collected(tmp_path)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SampleError, match="can't be read"):
        collected(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-8])
    with pytest.raises(SampleError, match="can't be read"):
        collected(tmp_path)
