"""What is built depends on the model and on declared dependencies alone, not on optional packages."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline.recipes import list_recipes, load_recipe, prepare

BUILD = """
import hashlib, importlib.abc, json, sys
from pathlib import Path

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

hidden = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Hidden())
from pipeline import CalibrationTable, load, quantize
digests = {}
for model, table, shapes in json.loads(sys.argv[2]):
    quantized = quantize(load(model, shapes), table=CalibrationTable.load(Path(table)))
    library = quantized.build("x86-64-v3", Path(sys.argv[3]) / f"{quantized.program.name}.so")
    digests[library.name] = hashlib.sha256(library.read_bytes()).hexdigest()
assert not hidden & {name.partition(".")[0] for name in sys.modules}
print(json.dumps(digests))
"""


def optional_modules() -> frozenset[str]:
    """Return the modules of all packages of the extras that are installed, and of nothing that the package needs."""
    declared = [Requirement(text) for text in requires("onnx-int8-pipeline") or ()]
    extras = {r.name.lower() for r in declared if r.marker is not None and "extra" in str(r.marker)}
    needed = {r.name.lower() for r in declared} - extras
    return frozenset(
        module
        for module, packages in packages_distributions().items()
        if {p.lower() for p in packages} <= extras - needed and module.isidentifier()
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, dict[str, tuple[int, ...]]]]:
    """The model, the calibration table and the shapes of each recipe."""
    from pipeline import CalibrateOptions, annotate, calibrate, load

    folder = tmp_path_factory.mktemp("tables")
    made = []
    for listed in list_recipes():
        recipe = prepare(load_recipe(listed.name))
        program = load(recipe.model, recipe.shapes)
        options = CalibrateOptions("abs_max", batch_nums=2)
        path = folder / f"{listed.name}.json"
        calibrate(program, annotate(program), recipe.calibration, options).save(path)
        made.append((str(recipe.model), str(path), recipe.shapes))
    return made


def digests(hidden: frozenset[str], prepared: list[tuple[str, str, dict[str, tuple[int, ...]]]], folder: Path) -> str:
    command = [sys.executable, "-c", BUILD, json.dumps(sorted(hidden)), json.dumps(prepared), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_libraries_are_the_same_with_and_without_optional_packages(
    prepared: list[tuple[str, str, dict[str, tuple[int, ...]]]], tmp_path: Path
) -> None:
    everything = optional_modules()
    assert "onnxruntime" in everything
    expected = digests(frozenset(), prepared, tmp_path)
    assert len(json.loads(expected)) == len(prepared)
    for hidden in (frozenset({"onnxruntime"}), everything):
        assert digests(hidden, prepared, tmp_path) == expected, hidden
