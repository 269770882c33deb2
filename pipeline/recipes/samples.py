"""The samples of recipes: inputs with labels, generated or read when they are needed. A seed determines them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SampleError, missing_extra
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.recipes import text
from pipeline.recipes.schema import Recipe
from pipeline.samples.images import pillow, to_array

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelledSample:
    """One sample, with the batch axis, and the index of the right answer; None if there is no label."""

    feeds: dict[str, Array]
    label: int | None


SampleMaker = Callable[[Recipe, str], Iterator[LabelledSample]]
"""Returns a recipe's samples for a purpose, "calibration" or "evaluation". No sample serves both purposes."""


def digits(recipe: Recipe, purpose: str) -> Iterator[LabelledSample]:
    """Yield handwritten digits from the file beside the recipe: [1,1,28,28] float32 in [-1, 1]."""
    path = recipe.folder / f"{recipe.name}_samples.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            test = purpose == "evaluation"
            images = archive["test" if test else "calibration"]
            labels = archive["labels"] if test else [None] * len(images)
    except (OSError, ValueError, KeyError) as error:
        raise SampleError(f"The samples {path} can't be read: {error}") from error
    for image, label in zip(images[: _count(recipe, purpose)], labels, strict=False):
        value = image.astype("float32") / np.float32(127.5) - np.float32(1)
        yield LabelledSample({"image": value[None, None]}, None if label is None else int(label))


def text_lines(recipe: Recipe, purpose: str) -> Iterator[LabelledSample]:
    """Yield rendered lines of text, about half upside down: [1,3,48,192] float32; label 1 means upside down."""
    random = np.random.default_rng((recipe.samples.seed, purpose == "evaluation"))
    for _ in range(_count(recipe, purpose)):
        picture = text.line(text.words(random), random)
        upside_down = bool(random.integers(2))
        picture = picture.rotate(180) if upside_down else picture
        yield LabelledSample({"x": text.as_input(picture, 192)}, int(upside_down))


CALIBRATION_PICTURES = ("astronaut", "coffee", "rocket", "ihc", "color", "hubble_deep_field")
EVALUATION_PICTURES = ("chelsea", "motorcycle_left", "retina", "page", "text", "brick", "grass", "gravel", "camera")


_PICTURE_STEPS = ImagePreprocessing(None, None, "RGB", 1.0, (127.0,), (128.0,), "NCHW")


def pictures(recipe: Recipe, purpose: str) -> Iterator[LabelledSample]:
    """Yield crops of photographs in scikit-image: [1,3,224,224] float32 RGB, (pixel - 127) / 128; no labels.

    Calibration and evaluation use different photographs.
    """
    image = pillow().Image
    try:
        folder = importlib.resources.files("skimage") / "data"
    except ModuleNotFoundError as error:
        raise missing_extra("This recipe needs scikit-image", "models") from error
    random = np.random.default_rng((recipe.samples.seed, purpose == "evaluation"))
    wanted = EVALUATION_PICTURES if purpose == "evaluation" else CALIBRATION_PICTURES
    loaded = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.rpartition(".")[0] in wanted:
            with file.open("rb") as data:
                loaded.append(image.open(data).convert("RGB"))
    if not loaded:
        raise SampleError(f"scikit-image has none of the pictures {', '.join(wanted)}.")
    for i in range(_count(recipe, purpose)):
        picture = loaded[i % len(loaded)]
        side = int(min(picture.size) * random.uniform(0.4, 1.0))
        x, y = (int(random.integers(0, length - side + 1)) for length in picture.size)
        crop = picture.crop((x, y, x + side, y + side)).resize((224, 224), image.Resampling.BICUBIC)
        pixels = np.asarray(crop)
        pixels = pixels[:, ::-1] if random.integers(2) else pixels
        yield LabelledSample({"x": to_array(pixels, _PICTURE_STEPS, "float32")[None]}, None)


def _count(recipe: Recipe, purpose: str) -> int:
    return recipe.samples.evaluation if purpose == "evaluation" else recipe.samples.calibration


SAMPLE_MAKERS: dict[str, SampleMaker] = {"digits": digits, "pictures": pictures, "text_lines": text_lines}
"""What makes each kind of samples, by the kind's name in recipes."""
