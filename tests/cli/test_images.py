"""From a folder of pictures to a library that runs on pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pipeline
from tests.cli.commands import run
from tests.models import tiny_network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONS = ("--resize", "14", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(random.integers(0, 256, (20, 16 + i, 3), "uint8")).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_network(), path)
    return path


def by_hand(file: Path) -> np.ndarray:
    """Return the array that the options make of a picture."""
    image = Image.open(file)
    image = image.resize((14, int(14 * image.height / image.width)), Image.Resampling.BILINEAR)
    top = round((image.height - 12) / 2)
    values = np.asarray(image.crop((1, top, 13, top + 12)), "float64") / 255
    return ((values - MEAN) / STD).astype("float32").transpose(2, 0, 1)


def test_a_library_built_from_pictures_runs_on_pictures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, pictures: Path
) -> None:
    out = tmp_path / "out"
    code, text, _ = run(capsys, monkeypatch, "build", model, "--samples", pictures, *OPTIONS, "-o", out, "--json")
    assert code == 0
    library = Path(json.loads(text)["libraries"][0]["path"])
    np.save(tmp_path / "x.npy", by_hand(pictures / "2.png"))
    answers = []
    for source in (pictures / "2.png", tmp_path / "x.npy"):
        assert run(capsys, monkeypatch, "run", library, "--input", source, "--output", tmp_path / "y.npz")[0] == 0
        answers.append(np.load(tmp_path / "y.npz")["scores"])
    np.testing.assert_array_equal(*answers)
    assert answers[0].any()
    recorded = pipeline.read_metadata(library)
    assert recorded.schema_version == 4
    assert (recorded.preprocessing.resize, recorded.preprocessing.crop) == (14, (12, 12))
    assert "shorter side resized to 14, cropped to 12x12" in run(capsys, monkeypatch, "inspect", library)[1]
    assert run(capsys, monkeypatch, "bench", library, "--input", pictures / "2.png", "--repeats", 1)[0] == 0


def test_arrays_of_the_same_values_give_the_same_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, pictures: Path
) -> None:
    (tmp_path / "arrays").mkdir()
    for file in pictures.iterdir():
        np.save(tmp_path / "arrays" / f"{file.stem}.npy", by_hand(file))
    for folder, options in ((pictures, OPTIONS), (tmp_path / "arrays", ())):
        out = tmp_path / f"{folder.name}.out"
        assert run(capsys, monkeypatch, "build", model, "--samples", folder, *options, "-o", out)[0] == 0
    tables = [next(tmp_path.glob(f"{name}.out/*.calibration.json")).read_text() for name in ("pictures", "arrays")]
    assert tables[0] == tables[1]
    libraries = [next(tmp_path.glob(f"{name}.out/*.so")) for name in ("pictures", "arrays")]
    assert [pipeline.read_metadata(path).schema_version for path in libraries] == [4, 3]


def test_a_given_table_and_options_say_how_pictures_become_inputs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, pictures: Path
) -> None:
    # Corrections need samples.
    options, first, second = (*OPTIONS, "--effort", "none"), tmp_path / "first", tmp_path / "second"
    assert run(capsys, monkeypatch, "build", model, "--samples", pictures, *options, "-o", first)[0] == 0
    table = first / "tiny.calibration.json"
    assert run(capsys, monkeypatch, "build", model, "--calibration", table, *options, "-o", second)[0] == 0
    assert (first / "tiny.host.so").read_bytes() == (second / "tiny.host.so").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resize", "big"), "'big' isn't a size. Expected pixels, for example 224, or width and height: 320x240"),
        (("--mean", "a,b"), "'a,b' isn't a list of numbers"),
        (("--mean", "123,117,104"), "means are of values from 0 to 1"),
        (("--crop", "9"), "--crop 9x9: input 'x' takes pictures of 12x12"),
        (("--layout", "NHWC"), "say where the channels are"),
        (("--layout", "CHW"), "Unknown layout 'CHW'"),
    ],
    ids=["resize", "numbers", "mean", "crop", "layout", "choice"],
)
def test_a_mistake_is_one_clear_error(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: Path,
    pictures: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    out = tmp_path / "out"
    code, _, err = run(capsys, monkeypatch, "build", model, "--samples", pictures, *options, "-o", out)
    assert code == 2
    assert message in " ".join(err.split())
    assert not list(out.glob("*"))


def test_the_same_from_python(tmp_path: Path, model: Path, pictures: Path) -> None:
    program = pipeline.load(model)
    quantized = pipeline.quantize(program, pictures, resize=14, mean=list(MEAN), std=STD)
    folder = pipeline.Images(pictures, pipeline.ImageOptions(resize=14, mean=MEAN, std=STD))
    assert pipeline.quantize(program, folder).table == quantized.table
    arrays = [by_hand(file) for file in sorted(pictures.iterdir())]
    assert pipeline.quantize(program, arrays).table == quantized.table
    with pytest.raises(pipeline.PipelineError, match="these samples are arrays already"):
        pipeline.quantize(program, arrays, resize=14)
