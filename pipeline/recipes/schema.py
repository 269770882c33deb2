"""Recipes: TOML files that say where a model and its samples come from and how its accuracy is measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.data import data_directory
from pipeline.errors import OptionError, unknown_name
from pipeline.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileSource(BaseModel):
    """A model file that ships beside the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"]
    path: str
    sha256: Sha256


class PackageSource(BaseModel):
    """A file inside a package of the Python registry.

    Attributes:
        package: its name.
        version: its version, exactly.
        sha256: of the wheel.
        path: of the file inside the wheel.
        builder: a function of `recipes.builders` that makes the ONNX model from the file; None if it is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["package"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]*$")]
    sha256: Sha256
    path: str
    builder: str | None = None


class SampleSource(BaseModel):
    """Where samples come from.

    Attributes:
        kind: a function of `recipes.samples`.
        calibration: how many samples to calibrate with.
        evaluation: how many other samples to measure accuracy on.
        seed: of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    calibration: Annotated[int, Field(ge=1, le=10_000)]
    evaluation: Annotated[int, Field(ge=1, le=100_000)]
    seed: int = 0


class Recipe(BaseModel):
    """Everything about one model.

    Attributes:
        name: the recipe's file name without `.toml`.
        folder: where the recipe is.
        description: a sentence for people.
        licence: of model and samples.
        source: where the model comes from.
        inputs: input name -> shape.
        samples: where samples come from.
        metric: `accuracy` where samples have labels; `agreement`, with the float model, where they don't.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path
    description: str
    licence: str
    source: Annotated[FileSource | PackageSource, Field(discriminator="kind")]
    inputs: dict[str, tuple[Annotated[int, Field(ge=1)], ...]]
    samples: SampleSource
    metric: Literal["accuracy", "agreement"]


def list_recipes() -> tuple[Recipe, ...]:
    """Return all shipped recipes by name."""
    return tuple(load_recipe(path) for path in sorted(data_directory("models").glob("*.toml")))


def load_recipe(name: str | Path) -> Recipe:
    """Return a recipe.

    Args:
        name: of a shipped recipe, or the path of a TOML file.

    Raises:
        OptionError: there is no such recipe, or it doesn't fit the schema; the message names file and key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = {p.stem: p for p in data_directory("models").glob("*.toml")}
        if str(name) not in known:
            raise OptionError(unknown_name("recipe", str(name), known))
        path = known[str(name)]
    try:
        values = tomllib.loads(read_text(path, "recipe", OptionError))
        return Recipe.model_validate({**values, "name": path.stem, "folder": path.resolve().parent})
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"The recipe {path} isn't TOML: {error}.") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
        raise OptionError(f"The recipe {path} is wrong. {wrong}.") from error
