"""Real models, quantized, with images and the reference's answers; each is made once in a process."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from pipeline.api import load, quantize
from pipeline.ir.program import Program
from pipeline.recipes import load_recipe, prepare
from pipeline.recipes.fetch import file_from_package
from pipeline.recipes.schema import PackageSource
from pipeline.reference import execute
from tests.models import import_test_model, residual_network
from tests.pipeline.exactness import Observed, observe

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class Quantized:
    """An int8 program, and images that it wasn't calibrated with.

    Attributes:
        program: what is shipped.
        observed: the same, so that it can be compared with the reference.
        images: inputs by name, anew each time it is called.
    """

    program: Program
    observed: Observed
    images: Callable[[], Iterator[Feeds]]

    def image(self, index: int) -> Feeds:
        """Return one input."""
        return next(itertools.islice(self.images(), index, None))


def _recipe(name: str, batch: int = 1) -> tuple[Program, Callable[[], Iterator[Feeds]]]:
    prepared = prepare(load_recipe(name))
    shapes = {key: (batch, *shape[1:]) for key, shape in prepared.shapes.items()}
    program = load(prepared.model, shapes)
    calibration = list(itertools.islice(_batches(prepared.calibration(), batch), CALIBRATION_BATCHES))
    evaluation = lambda: _batches((s.feeds for s in prepared.evaluation()), batch)  # noqa: E731
    return quantize(program, calibration).program, evaluation


def _batches(images: Iterator[Feeds], size: int) -> Iterator[Feeds]:
    while len(chosen := list(itertools.islice(images, size))) == size:
        yield {name: np.concatenate([feeds[name] for feeds in chosen]) for name in chosen[0]}


def _text_network(file: str) -> tuple[Program, Callable[[], Iterator[Feeds]]]:
    """Return another network of the package that the text direction classifier comes from, on the same lines of text.

    The lines have a border, as the network halves an image's sides five times.
    """
    recipe = load_recipe("text-direction")
    assert isinstance(recipe.source, PackageSource)
    member = str(Path(recipe.source.path).with_name(file))
    lines = prepare(recipe)
    with TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(file_from_package(replace(recipe.source, path=member)))
        program = load(path, {"x": (1, 3, 64, 192)})

    def framed(line: Feeds) -> Feeds:
        return {"x": np.pad(line["x"], ((0, 0), (0, 0), (8, 8), (0, 0)))}

    calibration = [framed(line) for line in itertools.islice(lines.calibration(), CALIBRATION_BATCHES)]
    return quantize(program, calibration).program, lambda: (framed(s.feeds) for s in lines.evaluation())


def _residual_network() -> tuple[Program, Callable[[], Iterator[Feeds]]]:
    program = import_test_model(residual_network())

    def images(seed: int) -> Iterator[Feeds]:
        random = np.random.default_rng(seed)
        while True:
            yield {i.name: random.standard_normal(i.shape).astype("float32") for i in program.inputs}

    calibration = list(itertools.islice(images(0), CALIBRATION_BATCHES))
    return quantize(program, calibration).program, lambda: images(1)


MAKERS: Mapping[str, Callable[[], tuple[Program, Callable[[], Iterator[Feeds]]]]] = {
    "digits": lambda: _recipe("digits"),
    "text-direction": lambda: _recipe("text-direction"),
    "text-detection": lambda: _text_network("ch_PP-OCRv4_det_infer.onnx"),
    "text-recognition": lambda: _text_network("ch_PP-OCRv4_rec_infer.onnx"),
    "efficientnet-lite0": lambda: _recipe("efficientnet-lite0"),
    "efficientnet-lite0 in pairs": lambda: _recipe("efficientnet-lite0", batch=2),
    "residual blocks": _residual_network,
}
"""Real networks, and an artificial one with everything that none of them has."""


@functools.cache
def quantized(name: str) -> Quantized:
    """Return a model as int8."""
    program, images = MAKERS[name]()
    return Quantized(program, observe(program), images)


@functools.cache
def answers(name: str, index: int) -> Mapping[str, Array]:
    """Return the reference's outputs for an image; nothing for models for which it needs a library's values."""
    model = quantized(name)
    return {} if model.observed.entries else execute(model.observed.reference, model.image(index))
