"""The runner's own distribution contains the modules that running a library imports, and their dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.runtime.models import quantized_model

ROOT = Path(__file__).parents[2]

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN = """
import sys
import numpy as np
import pipeline
runner = pipeline.Runner(sys.argv[1])
feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in runner.inputs}
runner.run(feeds), runner.benchmark(feeds, repeats=1), runner.trace(feeds, repeats=1)
pipeline.read_metadata(sys.argv[1])
print(*sys.modules)
"""


def distributed() -> set[str]:
    """Return the files of `pipeline` that the distribution holds."""
    tree = ast.parse((ROOT / "runner/hatch_build.py").read_text(encoding="utf-8"))
    assigned = {t.id: n.value for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
    return set(ast.literal_eval(assigned["MODULES"]))


def test_it_holds_what_running_a_library_imports_and_nothing_else(tmp_path: Path) -> None:
    library = quantized_model().build("host", tmp_path / "m.so")
    command = [sys.executable, "-c", RUN, str(library)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name for name in result.stdout.split() if name.split(".")[0] == "pipeline"}
    files = {str(Path(sys_path(name)).relative_to(ROOT / "pipeline")) for name in imported}
    assert files == distributed()


def sys_path(module: str) -> str:
    """Return the file of a module of this repository."""
    path = ROOT.joinpath(*module.split("."))
    return str(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def test_it_asks_for_no_package_that_the_whole_one_does_without() -> None:
    whole, runner = (
        tomllib.loads((ROOT / place).read_text(encoding="utf-8"))["project"]["dependencies"]
        for place in ("pyproject.toml", "runner/pyproject.toml")
    )
    # apache-tvm-ffi, which TVM depends on, takes the place of TVM.
    assert set(runner) - {"apache-tvm-ffi>=0.1.14.post0"} <= set(whole)
