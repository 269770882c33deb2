"""Recipes: real models, ready to be quantized, with samples and a measure of accuracy."""

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
    """A recipe's model on this machine, and its samples.

    Attributes:
        model: the ONNX file.
        shapes: input name -> shape.
        calibration: yields calibration samples anew each time it is called.
        evaluation: yields evaluation samples, with labels where there are any, anew each time it is called.
    """

    model: Path
    shapes: dict[str, tuple[int, ...]]
    calibration: Callable[[], Iterator[dict[str, npt.NDArray[Any]]]]
    evaluation: Callable[[], Iterator[LabelledSample]]


def prepare(recipe: Recipe) -> PreparedRecipe:
    """Bring a recipe's model here; fetched files are kept in a cache.

    Raises:
        ModelError: the model can't be fetched or isn't the one that the recipe names.
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
