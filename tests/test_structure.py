"""Imports between packages go one way, and the error family is one family."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pipeline
from pipeline import errors

ROOT = Path(pipeline.__file__).parent

LAYERS = (
    ("errors", "data", "files", "cpu", "elf"),
    ("dialect",),
    ("program", "targets"),
    ("artifact", "kernels", "importer", "annotation", "reference"),
    ("compilation",),
    ("calibration",),
    ("realization",),
    ("deploy", "recipes", "report", "api"),
    ("workflow", "profiling"),
    ("cli",),
)
"""From what knows nobody to what knows everybody."""


def part(module: str) -> str:
    return module.split(".")[1]


def imports() -> dict[str, set[str]]:
    """Return which parts of the package each part imports, functions' own imports included."""
    found: dict[str, set[str]] = {}
    for file in ROOT.rglob("*.py"):
        relative = file.relative_to(ROOT).with_suffix("")
        if relative.parts == ("__init__",):
            continue
        uses = found.setdefault(relative.parts[0], set())
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
                uses.add(part(str(node.module)))
            elif isinstance(node, ast.ImportFrom) and node.module == "pipeline":
                uses.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                uses.update(part(a.name) for a in node.names if a.name.startswith("pipeline."))
    return found


def test_every_part_has_its_layer() -> None:
    assert set(imports()) == {name for layer in LAYERS for name in layer}


def test_imports_go_one_way() -> None:
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    wrong = [(user, used) for user, uses in imports().items() for used in uses - {user} if rank[used] > rank[user]]
    assert wrong == []


def test_kernels_do_not_know_relax() -> None:
    for file in (ROOT / "kernels").rglob("*.py"):
        assert "relax" not in file.read_text().replace("knows Relax", ""), file


def test_peers_are_never_imported() -> None:
    for file in ROOT.rglob("*.py"):
        names = {a.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import) for a in n.names}
        assert not names & {"onnxruntime", "openvino", "torch"}, file


def test_all_errors_are_one_family_and_are_in_its_picture() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(c, errors.PipelineError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)
    assert {c.exit_code for c in classes} == {1, 2}
