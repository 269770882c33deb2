"""Inputs for a library from a file: what doesn't fit is refused before values are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.inputs import read_inputs
from pipeline.errors import OptionError, SampleError
from pipeline.files import StoredArray
from pipeline.ir.program import TensorSpec
from pipeline.library.metadata import ArtifactMetadata, TargetSummary

X, Y = TensorSpec("x", (2, 3), "float32"), TensorSpec("y", (4,), "int64")


def library(*inputs: TensorSpec) -> ArtifactMetadata:
    """Return the metadata of a library with such inputs, which returns them."""
    target = TargetSummary(
        name="", architecture="", triple="", cpu="", features=(), required_features=(), instruction_set=""
    )
    return ArtifactMetadata(
        model="", kind="int8", inputs=inputs, outputs=inputs, target=target, versions={}, model_sha256=""
    )


def test_an_array_is_the_first_input_and_an_archive_has_names(tmp_path: Path) -> None:
    x, y = np.arange(6, dtype="float32").reshape(2, 3), np.arange(4)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", y=y, x=x)
    np.testing.assert_equal(read_inputs(tmp_path / "x.npy", library(X)), {"x": x})
    np.testing.assert_equal(read_inputs(tmp_path / "xy.npz", library(X, Y)), {"y": y, "x": x})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.zeros((2, 4), "float32"), "y": np.zeros(4, "int64")},
            r": .*'x' has the shape \[2, 4\] and dtype float32",
        ),
        ({"x": np.zeros((2, 3), "float32"), "y": np.zeros(4)}, r": .*dtype float64; expected \[4\] and int64"),
        ({"x": np.zeros((2, 3), "float32")}, r" holds \['x'\]; the model's inputs are \['x', 'y'\]"),
        ({"x": np.zeros((2, 3), "float32"), "y": np.zeros(4, "int64"), "z": np.zeros(1)}, r" holds \['x', 'y', 'z'\]"),
    ],
    ids=["shape", "dtype", "missing", "unknown"],
)
def test_what_does_not_fit_is_refused_before_values_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray], message: str
) -> None:
    def load(array: StoredArray) -> None:
        raise AssertionError(f"{array} was read")

    monkeypatch.setattr(StoredArray, "load", load)
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(SampleError, match=rf"Sample .*a\.npz{message}"):
        read_inputs(tmp_path / "a.npz", library(X, Y))


def test_a_picture_needs_a_library_that_says_how_it_becomes_an_input(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"doesn't say how the picture .*cat\.jpg becomes its input"):
        read_inputs(tmp_path / "cat.jpg", library(X))


def test_an_array_that_claims_more_than_its_file_has_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**28,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(SampleError, match=r"x\.npy can't be read: .*more than is in it"):
        read_inputs(tmp_path / "x.npy", library(TensorSpec("x", (2**28,), "float32")))
