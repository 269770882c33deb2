"""The schema of recipes: TOML files that say where a model and its samples come from, and how it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from pipeline.data import data_directory
from pipeline.errors import OptionError, unknown_name
from pipeline.schema import Record, read_toml

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class FileSource(Record, frozen=True, kw_only=True, tag_field="kind", tag="file"):
    """A model file in the recipe's own folder.

    Attributes:
        path: of the file, relative to the folder.
        sha256: of the file.
    """

    path: str
    sha256: Sha256


class PackageSource(Record, frozen=True, kw_only=True, tag_field="kind", tag="package"):
    """A file inside a package of the Python registry.

    Attributes:
        package: its name.
        version: its version, exactly.
        sha256: of the wheel.
        path: of the file inside the wheel.
        builder: name of the function of `recipes.builders` that makes an ONNX model of the file; None if the file is
            an ONNX model.
    """

    package: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Meta(pattern=r"^[0-9][0-9A-Za-z.+-]*$")]
    sha256: Sha256
    path: str
    builder: str | None = None


class SampleSource(Record, frozen=True, kw_only=True):
    """Where samples come from.

    Attributes:
        kind: name of a function of `recipes.samples`.
        calibration: how many samples to calibrate with.
        evaluation: how many other samples to measure accuracy on.
        seed: of everything that is random about the samples.
    """

    kind: str
    calibration: Annotated[int, Meta(ge=1, le=10_000)]
    evaluation: Annotated[int, Meta(ge=1, le=100_000)]
    seed: int = 0


class Recipe(Record, frozen=True, kw_only=True):
    """Everything about one model.

    Attributes:
        name: the recipe's file name without `.toml`.
        folder: where the recipe is.
        description: a sentence for people.
        licence: of model and samples.
        source: where the model comes from.
        inputs: input name -> shape.
        samples: where samples come from.
        metric: "accuracy" if samples have labels; else "agreement", with the float model.
    """

    name: str
    folder: Path
    description: str
    licence: str
    source: FileSource | PackageSource
    inputs: dict[str, tuple[Annotated[int, Meta(ge=1)], ...]]
    samples: SampleSource
    metric: Literal["accuracy", "agreement"]


def list_recipes() -> tuple[Recipe, ...]:
    """Return all recipes that come with the package, sorted by name."""
    return tuple(load_recipe(path) for path in sorted(data_directory("models").glob("*.toml")))


def load_recipe(name: str | Path) -> Recipe:
    """Return a recipe.

    Args:
        name: name of a recipe that comes with the package, or the path of a TOML file.

    Raises:
        OptionError: there is no such recipe, or it doesn't fit the schema; the message names file and key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = {p.stem: p for p in data_directory("models").glob("*.toml")}
        if str(name) not in known:
            raise OptionError(unknown_name("recipe", str(name), known))
        path = known[str(name)]
    return read_toml(path, Recipe, "recipe", OptionError, name=path.stem, folder=str(path.resolve().parent))
