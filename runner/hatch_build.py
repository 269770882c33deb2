"""Puts into the runner's wheel what running a library needs: modules of this repository, and TVM's small runtime.

The modules are the same files as the whole package has, and `import pipeline` is the same; so a machine has one of the
two distributions. TVM's runtime is 3 MB of a wheel of some hundred; it is copied from the one that the build installs,
with its licence, and makes this wheel one of that wheel's platform.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools_scm import get_version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent

MODULES = (
    "__init__.py",
    "conversion.py",
    "cpu.py",
    "data.py",
    "errors.py",
    "files.py",
    "ir/__init__.py",
    "ir/preprocessing.py",
    "ir/program.py",
    "ir/types.py",
    "library/__init__.py",
    "library/elf.py",
    "library/metadata.py",
    "runtime/__init__.py",
    "runtime/ffi.py",
    "runtime/library_runner.py",
    "runtime/loading.py",
    "runtime/local.py",
    "runtime/tensors.py",
    "runtime/trace.py",
    "runtime/worker.py",
    "schema.py",
)
"""Of `pipeline`: what `pipeline.Runner` and `pipeline.read_metadata` import."""

RUNTIME = "libtvm_runtime.so"


def version() -> str:
    """Return the version of the whole package, whose code this is."""
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return str(get_version(root=str(REPOSITORY), **tool["hatch"]["version"]["raw-options"]))


class RunnerBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Says which files go where, and which platform the wheel is for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the modules, the runtime and its licence to the wheel."""
        tvm = importlib.metadata.distribution("apache-tvm")
        included = {str(REPOSITORY / "pipeline" / module): f"pipeline/{module}" for module in MODULES}
        included[str(tvm.locate_file(f"tvm/lib/{RUNTIME}"))] = f"pipeline/runtime/lib/{RUNTIME}"
        licences = {Path(f.name).name: f for f in tvm.files or () if Path(f.name).name in ("LICENSE", "NOTICE")}
        included |= {str(tvm.locate_file(f)): f"pipeline/runtime/lib/{name}" for name, f in licences.items()}
        build_data["force_include"] = included
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(tvm)}"


def _platform(distribution: importlib.metadata.Distribution) -> str:
    """Return the platform that an installed wheel is for, as its name has it."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag: ").rpartition("-")[2] for line in lines if line.startswith("Tag: ")]
    # Several tags stand in a wheel's name as one, joined by dots.
    return ".".join(dict.fromkeys(tags))
