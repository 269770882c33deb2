"""Samples of another range than a model was trained on are told; what looks as usual isn't."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.importer import import_model
from pipeline.ir.program import Program
from pipeline.quantization.input_range import range_warnings
from pipeline.recipes import load_recipe, prepare
from tests.models import ModelBuilder, import_test_model, small_network


@pytest.fixture(scope="module")
def digits() -> tuple[Program, list[np.ndarray]]:
    """Return a network that was trained on -1 to 1, and images in that range."""
    prepared = prepare(load_recipe("digits"))
    samples = prepared.calibration()
    return import_model(prepared.model), [next(samples)["image"] for _ in range(4)]


@pytest.mark.parametrize(
    "scaled",
    [lambda x: x, lambda x: (x + 1) / 2, lambda x: (x + 1 - 0.26) / 0.6, lambda x: -x],
    ids=["as trained", "0 to 1", "normalized", "inverted"],
)
def test_the_usual_ranges_are_nothing_to_speak_of(
    digits: tuple[Program, list[np.ndarray]], scaled: Callable[[np.ndarray], np.ndarray]
) -> None:
    program, images = digits
    assert range_warnings(program, [{"image": scaled(x).astype("float32")} for x in images]) == []


def test_pixels_in_place_of_normalized_values_are_told(digits: tuple[Program, list[np.ndarray]]) -> None:
    program, images = digits
    (text,) = range_warnings(program, [{"image": ((x + 1) * 127.5).astype("float32")} for x in images])
    assert text.startswith("Input 'image': values are 0 to 255, for which the sums of the first layer, ")
    assert "times as large as its biases. If the model was trained on values around 0 to 1 or -1 to 1" in text


def test_normalized_values_in_place_of_pixels_are_told(digits: tuple[Program, list[np.ndarray]]) -> None:
    program, images = digits
    (text,) = range_warnings(program, [{"image": (x / 127.5).astype("float32")} for x in images])
    assert "times smaller than its biases. If the model was trained on larger values" in text


def test_a_model_that_scales_pixels_itself_may_have_them() -> None:
    random = np.random.default_rng(0)
    b = ModelBuilder()
    weight, bias = (b.constant(random.standard_normal(s).astype("float32")) for s in ((8, 3, 3, 3), (8,)))
    scaled = b.node("Div", "x", b.constant(np.float32(255)))
    program = import_test_model(b.model({"x": (1, 3, 16, 16)}, b.node("Relu", b.node("Conv", scaled, weight, bias))))
    pixels = {"x": random.integers(0, 256, (1, 3, 16, 16)).astype("float32")}
    assert range_warnings(program, [pixels]) == []


def test_models_that_say_nothing_are_left_alone() -> None:
    """Without biases there is nothing to compare with; and inputs may be no images."""
    random = np.random.default_rng(0)
    b = ModelBuilder()
    weight = b.constant(random.standard_normal((8, 3, 3, 3)).astype("float32"))
    program = import_test_model(b.model({"x": (1, 3, 16, 16)}, b.node("Conv", "x", weight)))
    assert range_warnings(program, [{"x": random.random((1, 3, 16, 16)).astype("float32") * 255}]) == []
    b = ModelBuilder()
    rows = b.node("Gemm", "x", b.constant(random.standard_normal((4, 2)).astype("float32")))
    assert (
        range_warnings(import_test_model(b.model({"x": (1, 4)}, rows)), [{"x": np.full((1, 4), 255, "float32")}]) == []
    )


def test_noise_is_nothing_to_speak_of() -> None:
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype("float32")}
    assert range_warnings(import_test_model(small_network()), [feed]) == []
