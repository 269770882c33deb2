"""Shapes that a model leaves open are those of the first sample."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from pipeline.api import load, quantize
from pipeline.config.options import ImageOptions
from pipeline.errors import OptionError, SampleError
from pipeline.samples import Images
from pipeline.samples.shapes import Dims, open_shapes
from tests.models import ModelBuilder

IMAGES: dict[str, Dims | None] = {"x": (None, 3, None, None)}


def array(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


def picture(path: Path, width: int, height: int) -> None:
    Image.fromarray(np.zeros((height, width, 3), "uint8")).save(path)


@pytest.mark.parametrize(
    ("dims", "sample", "expected"),
    [
        ((None, 3, None, None), array(3, 8, 9), (1, 3, 8, 9)),
        ((None, 3, None, None), array(1, 3, 8, 9), (1, 3, 8, 9)),
        ((None, 3, None, None), array(4, 3, 8, 9), (4, 3, 8, 9)),
        ((2, 3, None, None), array(3, 8, 9), (2, 3, 8, 9)),
        ((2, 3, None, None), array(5, 3, 8, 9), (2, 3, 8, 9)),
        ((None,), array(7), (7,)),
        (None, array(1, 7), (1, 7)),
        ((None, 3), (array(3), 1), (1, 3)),
        ((None, 3), {"x": array(3)}, (1, 3)),
    ],
    ids=str,
)
def test_an_array_says_what_is_open(dims: Dims | None, sample: Any, expected: tuple[int, ...]) -> None:
    assert open_shapes({"x": dims}, {}, [sample]) == {"x": expected}


def test_what_is_given_or_known_is_not_taken_from_samples() -> None:
    assert open_shapes(IMAGES, {"x": (1, 3, 5, 5)}, [array(3, 8, 9)]) == {"x": (1, 3, 5, 5)}
    assert open_shapes({"x": (1, 3, 5, 5)}, {}, [array(3, 8, 9)]) == {}
    two = {**IMAGES, "n": (None, 2)}
    assert open_shapes(two, {"x": (1, 3, 5, 5)}, [[array(3, 8, 9), array(2)]]) == {"x": (1, 3, 5, 5), "n": (1, 2)}


def test_samples_are_not_drawn_if_they_are_not_needed_or_can_be_read_only_once() -> None:
    def never() -> Iterator[np.ndarray]:
        raise AssertionError("it was drawn")
        yield

    assert open_shapes({"x": (1, 3)}, {}, never) == {}
    assert open_shapes(IMAGES, {}, never()) == {}


def test_a_batch_of_many_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_shapes(IMAGES, {}, [array(4, 3, 8, 9)])
    assert "it becomes 4, as sample 0 has it" in caplog.text
    assert "--shape x=1,3,8,9" in caplog.text


def test_a_sample_that_contradicts_the_model_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array(4, 8, 9))
    with pytest.raises(
        SampleError, match=r"a\.npy: input 'x' has the shape \(4, 8, 9\); the model takes \[\?, 3, \?, \?\]"
    ):
        open_shapes(IMAGES, {}, tmp_path)
    with pytest.raises(SampleError, match="No samples: the shapes"):
        open_shapes(IMAGES, {}, [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1, 3, 16, 20)),
        ({"resize": (8, 9)}, (1, 3, 9, 8)),
        ({"resize": 8}, (1, 3, 8, 10)),
        ({"resize": 8, "crop": 6}, (1, 3, 6, 6)),
        ({"crop": (5, 4)}, (1, 3, 4, 5)),
    ],
    ids=str,
)
def test_pictures_have_the_size_that_they_become(
    tmp_path: Path, options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    picture(tmp_path / "a.png", 20, 16)
    assert open_shapes(IMAGES, {}, Images(tmp_path, ImageOptions(**options))) == {"x": expected}
    last = {"x": (None, None, None, 3)}
    rolled = (1, *expected[2:], 3)
    assert open_shapes(last, {}, Images(tmp_path, ImageOptions(**options))) == {"x": rolled}


def test_pictures_of_several_sizes_are_an_error_that_names_two(tmp_path: Path) -> None:
    for name, width in (("a", 20), ("b", 20), ("c", 24)):
        picture(tmp_path / f"{name}.png", width, 16)
    both = rf"{re.escape(str(tmp_path / 'a.png'))} has 20x16, {re.escape(str(tmp_path / 'c.png'))} 24x16.*--resize"
    with pytest.raises(SampleError, match=both):
        open_shapes(IMAGES, {}, tmp_path)
    with pytest.raises(SampleError, match=r"has 10x8, .* 12x8 after they are resized"):
        open_shapes(IMAGES, {}, Images(tmp_path, ImageOptions(resize=8)))
    assert open_shapes(IMAGES, {}, Images(tmp_path, ImageOptions(crop=8))) == {"x": (1, 3, 8, 8)}


def test_pictures_of_any_size_do_for_a_model_that_leaves_only_the_batch_open(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 20, 16)
    picture(tmp_path / "b.png", 30, 16)
    assert open_shapes({"x": (None, 3, 8, 9)}, {}, tmp_path) == {"x": (1, 3, 8, 9)}
    assert open_shapes({"x": (None, 8, 9, 3)}, {}, Images(tmp_path, ImageOptions(resize=12))) == {"x": (1, 8, 9, 3)}


def test_pictures_count_where_arrays_are_among_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array(3, 16, 20))
    picture(tmp_path / "b.png", 20, 16)
    assert open_shapes(IMAGES, {}, tmp_path) == {"x": (1, 3, 16, 20)}
    assert open_shapes({"x": None}, {}, Images(tmp_path, ImageOptions(layout="NHWC"))) == {"x": (1, 16, 20, 3)}


def test_pictures_that_do_not_fit_what_the_model_says(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 20, 16)
    with pytest.raises(SampleError, match=r"Pictures of 20x16 don't fit input 'x', which takes \[\?, 3, 48, \?\]"):
        open_shapes({"x": (None, 3, 48, None)}, {}, tmp_path)
    with pytest.raises(OptionError, match="say where the channels are: --layout"):
        open_shapes({"x": (None, None, None, None)}, {}, tmp_path)
    options = ImageOptions(layout="NHWC")
    assert open_shapes({"x": (None, None, None, None)}, {}, Images(tmp_path, options)) == {"x": (1, 16, 20, 3)}


def open_model(path: Path) -> Path:
    b = ModelBuilder()
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype("float32")
    pooled = b.node("GlobalAveragePool", b.node("Relu", b.node("Conv", "x", b.constant(weight))))
    onnx.save(b.model({"x": ["batch", 3, "height", "width"]}, b.node("Flatten", pooled, name="y")), path)
    return path


def test_a_model_with_open_shapes_is_loaded_by_its_samples(tmp_path: Path) -> None:
    model = open_model(tmp_path / "open.onnx")
    assert load(model, samples=[array(3, 8, 9)]).inputs[0].shape == (1, 3, 8, 9)
    assert load(model, {"x": (1, 3, 6, 6)}, [array(3, 8, 9)]).inputs[0].shape == (1, 3, 6, 6)
    with pytest.raises(OptionError, match="dimension 2 isn't known"):
        load(model)


def test_samples_that_differ_in_shape_are_an_error_that_names_two(tmp_path: Path) -> None:
    model, folder = open_model(tmp_path / "open.onnx"), tmp_path / "samples"
    folder.mkdir()
    for name, width in (("a", 9), ("b", 9), ("c", 10)):
        np.save(folder / f"{name}.npy", np.ones((3, 8, width), "float32"))
    program = load(model, samples=folder)
    with pytest.raises(SampleError, match=r"c\.npy: .* \(3, 8, 10\); .* The first one, .*a\.npy, has \(3, 8, 9\)"):
        quantize(program, folder)
