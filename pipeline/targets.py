"""Targets: what a library is built for, described by TOML files in targets/ and by the user's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import cpu
from pipeline.data import data_directory
from pipeline.errors import OptionError, TargetError, unknown_name
from pipeline.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import tvm

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")]


class Target(BaseModel):
    """What a library is built for.

    Attributes:
        name: the file's name without `.toml`.
        description: a sentence for people.
        architecture: `x86_64` or `aarch64`.
        triple: LLVM's.
        cpu: LLVM's name of the oldest CPU that must run the library.
        features: LLVM features on top of the cpu's, each with + or -.
        required_features: what a CPU must have to load the library, as in /proc/cpuinfo.
        instruction_set: the kernels' instruction set, see `kernels.isa`.
        linker: the zig target to link with; no C library is linked in.
        page_size: largest page size that the library can be mapped with, bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    architecture: Literal["x86_64", "aarch64"]
    triple: Name
    cpu: Name
    features: tuple[Annotated[str, Field(pattern=r"^[+-][a-z0-9._-]+$")], ...] = ()
    required_features: tuple[Name, ...] = ()
    instruction_set: Name
    linker: Name
    page_size: Literal[4096, 16384, 65536] = 4096

    def tvm_target(self) -> tvm.target.Target:
        """Return the target as TVM wants it."""
        import tvm

        settings = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "mattr": list(self.features)}
        return tvm.target.Target({k: v for k, v in settings.items() if v})

    def missing_here(self) -> str | None:
        """Return why this machine can't run code built for the target; None if it can."""
        return missing_features(self.architecture, self.required_features)


class _Detected(BaseModel):
    """A target file that names others, of which the first that this machine can run is taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    detect: tuple[str, ...]


def missing_features(architecture: str, required: tuple[str, ...]) -> str | None:
    """Return why this machine can't run code for an architecture with these features; None if it can."""
    if cpu.architecture() != architecture:
        return f"it is for {architecture}, and this machine is {cpu.architecture()}"
    missing = [f for f in required if f not in cpu.features()]
    return f"it needs the CPU features {', '.join(missing)}, which this machine lacks" if missing else None


def list_targets() -> dict[str, str]:
    """Return the description of every shipped target by name."""
    files = sorted(data_directory("targets").glob("*.toml"))
    return {f.stem: str(_read(f)["description"]) for f in files}


def load_target(name: str | Path) -> Target:
    """Return a target.

    Args:
        name: of a shipped target, or the path of a TOML file.

    Raises:
        OptionError: there is no such target.
        TargetError: the file doesn't fit the schema; the message names file and key.
    """
    text = str(name)
    folder = data_directory("targets")
    if text.endswith(".toml") or os.sep in text:
        path = Path(text)
    else:
        path = folder / f"{text}.toml"
        if not path.is_file():
            raise OptionError(unknown_name("target", text, (f.stem for f in folder.glob("*.toml"))))
    values = _read(path)
    try:
        if "detect" in values:
            return _first_runnable(_Detected.model_validate(values), path)
        return Target.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        known = ", ".join(sorted(set(Target.model_fields) - {"name"}))
        raise TargetError(
            f"Target {path} doesn't fit its schema:\n" + "\n".join(lines) + f"\nKnown keys: {known}."
        ) from error


def _first_runnable(detected: _Detected, path: Path) -> Target:
    for name in detected.detect:
        target = load_target(name)
        if target.missing_here() is None:
            return target
    raise TargetError(f"Target {path}: this machine can run none of {', '.join(detected.detect)}.")


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_text(path, "target", TargetError))
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"Target {path} isn't TOML: {error}.") from error
