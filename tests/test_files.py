"""Arrays in files: they are read as by NumPy, and everything that a file claims is checked first."""

from __future__ import annotations

import errno
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline import files
from pipeline.errors import OptionError, SampleError
from pipeline.files import StoredArray, check_writable, load_arrays, stored_arrays, temporary_folder

ARRAYS = npst.arrays(
    npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), elements=None
)


@given(ARRAYS, st.booleans())
def test_an_array_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, array: Any, column: bool
) -> None:
    file = tmp_path_factory.mktemp("arrays") / "a.npy"
    array = np.asarray(array, order="F" if column else "C")
    np.save(file, array)
    loaded = load_arrays(file)
    assert isinstance(loaded, np.ndarray)
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert loaded.tobytes() == array.tobytes()


@pytest.mark.parametrize("path", ["/proc/model.onnx", "/no/such/folder/model.onnx", "/tmp"])  # noqa: S108
def test_an_output_that_cannot_be_written_is_refused(path: str) -> None:
    with pytest.raises(OptionError, match=path):
        check_writable(Path(path))


def test_a_temporary_folder_that_cannot_be_made_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(OptionError, match=r"A temporary folder can't be made: .* Set TMPDIR"), temporary_folder("a-"):
        pass


def test_a_temporary_folder_that_becomes_full_is_a_clear_error() -> None:
    def fail(number: int) -> None:
        with temporary_folder("a-") as folder:
            folders.append(folder)
            raise OSError(number, "why")

    folders: list[Path] = []
    with pytest.raises(OptionError, match=r"is full: why\. Set TMPDIR"):
        fail(errno.ENOSPC)
    with pytest.raises(FileNotFoundError):
        fail(errno.ENOENT)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_named_arrays_come_back_by_name(tmp_path: Path, save: Any) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "a/b": np.array(3), "empty": np.zeros((0, 2))}
    save(tmp_path / "a.npz", **arrays)
    loaded = load_arrays(tmp_path / "a.npz")
    np.testing.assert_equal(loaded, arrays)


def test_what_is_stored_is_known_without_reading_it(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((5, 4), "int16"))
    stored = stored_arrays(tmp_path / "a.npz")
    assert isinstance(stored, dict)
    assert (stored["x"].shape, stored["x"].dtype, stored["x"].nbytes) == ((5, 4), np.int16, 40)


def _npy(shape: str, data: bytes = bytes(16), descr: str = "<f4") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (len(header)).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_npy("(1099511627776,)"), r"it holds float32 of the shape \(1099511627776,\), which is more than is in it"),
        (_npy("(4294967296, 4294967296, 4294967296)"), "which is more than is in it"),
        (_npy("(-2, -2)"), "which is more than is in it"),
        (_npy("(5,)"), "which is more than is in it"),
        (_npy("(4,"), "its header is damaged"),
        (_npy("(4,)", descr="|O"), "it holds Python objects"),
        (b"\x93NUMPY\x03" + _npy("(4,)")[7:], "its format has the version"),
        (b"not an array", "can't be read"),
        (b"", "can't be read"),
    ],
    ids=["huge", "overflow", "negative", "short", "header", "objects", "version", "text", "empty"],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["npy", "npz"])
def test_files_that_are_not_what_they_claim(tmp_path: Path, data: bytes, message: str, zipped: bool) -> None:
    file = tmp_path / "a.npy"
    if zipped:
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("x.npy", data)
        data = memory.getvalue()
    file.write_bytes(data)
    with pytest.raises(SampleError, match=f"Sample {file}.*{message}"):
        load_arrays(file)


@pytest.mark.parametrize("names", [["readme.txt"], ["x.npy", "x.npy"]], ids=["text", "twice"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_something_else_in_them(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in names:
            archive.writestr(name, _npy("(4,)"))
    with pytest.raises(SampleError, match="is there twice, or isn't an array"):
        load_arrays(tmp_path / "a.npz")


def test_all_arrays_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(4, "float32"), y=np.zeros(4, "float32"))
    monkeypatch.setattr(files, "MAX_SAMPLE_BYTES", 32)
    load_arrays(tmp_path / "a.npz")
    monkeypatch.setattr(files, "MAX_SAMPLE_BYTES", 31)
    with pytest.raises(SampleError, match="holds 32 bytes of values; the limit is 31"):
        load_arrays(tmp_path / "a.npz")


def test_an_array_that_changes_after_its_header_was_read(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.zeros(100))
    stored = stored_arrays(file)
    assert isinstance(stored, StoredArray)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(SampleError, match="it ends after 792 of 800 bytes of values"):
        stored.load()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.json").write_text("before")
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "a.json", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "before")]
