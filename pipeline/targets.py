"""Targets: which CPU and system a library is compiled for, read from TOML files.

The files that come with the package are in `targets/`; `load_target` takes the name of one of them, or the path of a
user's own. docs/targets.md describes the keys.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from pipeline import cpu
from pipeline.data import data_directory
from pipeline.errors import OptionError, TargetError, unknown_name
from pipeline.other_tools import TARGETS, hint
from pipeline.schema import Record, convert, parse_toml

if TYPE_CHECKING:
    import tvm

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
"""A target's name, which becomes part of file names."""


class Linker(Record, frozen=True, kw_only=True):
    """How the objects of a library are linked.

    Attributes:
        zig_target: the argument of `zig cc -target`, which selects the architecture.
        page_size: largest memory page, in bytes, of the systems that will load the library.
        ndk_target: the argument `--target` of the Android NDK's clang, which links if ANDROID_NDK_HOME is set; None if
            the target isn't Android.
    """

    zig_target: str
    page_size: Literal[4096, 16384, 65536]
    ndk_target: str | None = None


class Cache(Record, frozen=True, kw_only=True):
    """Sizes in bytes of the level 1 and level 2 data caches that one core can use."""

    l1d_bytes: Annotated[int, Meta(ge=4096)]
    l2_bytes: Annotated[int, Meta(ge=4096)]


class Target(Record, frozen=True, kw_only=True):
    """What a library is compiled for.

    Attributes:
        name: its name on the command line and in libraries.
        description: one sentence for people.
        triple: LLVM's target triple.
        cpu: LLVM's `mcpu`.
        features: LLVM's `mattr`, each with its sign, such as "+dotprod".
        instruction_set: name of the instruction set, in `pipeline.kernels.isa`, that kernels are generated for.
        required_features: CPU features without which the library can't run, named as in /proc/cpuinfo.
        linker: how to link.
        cache: cache sizes that kernels are blocked for.
    """

    name: Name
    description: str
    triple: str
    cpu: str
    features: tuple[Annotated[str, Meta(pattern=r"^[+-]")], ...]
    instruction_set: str
    required_features: tuple[str, ...]
    linker: Linker
    cache: Cache

    @property
    def architecture(self) -> str:
        """The CPU architecture: the first part of the triple."""
        return self.triple.partition("-")[0]

    def tvm_target(self, optimization_level: int | None = None) -> tvm.target.Target:
        """Return TVM's description of this target.

        Args:
            optimization_level: LLVM's, 0 to 3; by default 3.

        Raises:
            TargetError: LLVM doesn't know the triple or the CPU.
        """
        import tvm
        from tvm.target import codegen

        if not codegen.llvm_is_valid_cpu(self.cpu, self.triple):
            raise TargetError(f"Target {self.name}: LLVM knows no CPU {self.cpu!r} for the triple {self.triple!r}.")
        description = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu, "mattr": list(self.features)}
        level = {} if optimization_level is None else {"opt-level": optimization_level}
        return tvm.target.Target({key: value for key, value in description.items() if value} | level)


class _Choice(Record, frozen=True, kw_only=True):
    """A target file that names several targets, of which the first that this machine can run is meant."""

    name: Name
    description: str
    candidates: Annotated[tuple[Name, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class TargetListing:
    """Name and description of a target that comes with the package."""

    name: str
    description: str


def list_targets() -> tuple[TargetListing, ...]:
    """Return the targets that come with the package, sorted by name.

    Raises:
        TargetError: a target file doesn't fit the schema.
    """
    parsed = (_parse(path) for path in sorted(data_directory("targets").glob("*.toml")))
    return tuple(TargetListing(target.name, target.description) for target in parsed)


def load_target(name_or_path: str | Path) -> Target:
    """Return a target by its name, or read a user's own target file.

    "host" returns the best of the package's targets that this machine can run. It has that target's name, so that
    machines with the same CPU features build the same libraries.

    Args:
        name_or_path: a name from `list_targets`, or the path of a file, which ends with ".toml" or contains a slash.

    Raises:
        OptionError: there is no target of that name.
        TargetError: the file is missing or wrong, or no target fits this machine.
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or os.sep in text:
        parsed = _parse(Path(name_or_path))
    else:
        parsed = _parse(_shipped_file(text))
    return parsed if isinstance(parsed, Target) else _first_supported(parsed)


def _shipped_file(name: str) -> Path:
    files = {path.stem: path for path in data_directory("targets").glob("*.toml")}
    if name not in files:
        own = " A target file of your own is given by its path."
        raise OptionError(unknown_name("target", name, files) + hint(TARGETS, name) + own)
    return files[name]


def _first_supported(choice: _Choice) -> Target:
    for name in choice.candidates:
        candidate = _parse(_shipped_file(name))
        if not isinstance(candidate, Target):
            raise TargetError(f"Target {choice.name}: candidate {name!r} is itself a choice; name a plain target.")
        if not cpu.missing_features(candidate.architecture, candidate.required_features):
            return candidate
    raise TargetError(
        f"Target {choice.name}: this machine ({cpu.architecture()}) can run none of {', '.join(choice.candidates)}. "
        f"Name another target."
    )


def _parse(path: Path) -> Target | _Choice:
    content = parse_toml(path, "target file", TargetError)
    kind: type[Target] | type[_Choice] = _Choice if "candidates" in content else Target
    return convert(path, content, kind, "target file", TargetError)
