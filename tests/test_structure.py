"""Imports between packages go one way, only declared packages are imported, and all errors have one base class."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline
from pipeline import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(pipeline.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MAY_IMPORT: Mapping[str, frozenset[str]] = {
    part: frozenset(others.split())
    for part, others in {
        # Used by all others.
        "errors": "",
        "data": "",
        "files": "errors",
        "schema": "errors files",
        "conversion": "",
        "cpu": "data errors",
        "memory": "",
        "distances": "",
        "matchings": "",
        "other_tools": "",
        "process_state": "",
        "targets": "cpu data errors other_tools schema",
        # What users may set.
        "config": "errors other_tools targets",
        # Programs, operators, kernels and passes; kernels don't use Relax.
        "ir": "",
        "ops": "ir",
        "reference": "ir ops",
        "kernels": "errors ir matchings ops",
        "passes": "",
        "passes.float": "errors ir ops",
        "passes.lowering": "errors ir kernels ops",
        # Libraries, written and read.
        "library": "errors files ir matchings schema targets",
        "compiler": "cpu errors files ir kernels library memory ops passes.lowering process_state schema targets",
        "runtime": "conversion cpu errors ir library",
        # Whoever runs programs over samples may do so in other processes.
        "scale_out": "compiler config cpu data errors ir process_state runtime targets",
        # The stages before the compiler. Only calibration compiles.
        "importer": "errors files ir memory ops passes.float process_state",
        "samples": "config conversion errors files ir process_state",
        "quantization.spec": "ir schema",
        "quantization.observers": "compiler errors other_tools quantization.spec schema",
        "quantization": (
            "compiler config distances errors files ir ops process_state quantization.observers quantization.spec "
            "reference samples scale_out schema"
        ),
        # Whatever combines the stages.
        "exporter": "errors ir ops quantization quantization.spec",
        "api": (
            "compiler config errors exporter files importer ir library process_state quantization samples "
            "scale_out targets"
        ),
        "analysis": "api compiler distances errors files ir ops quantization quantization.spec scale_out schema",
        "profiling": "compiler errors kernels library runtime schema targets",
        "recipes": "data errors files ir samples schema",
        "report": "analysis compiler distances errors files importer ir library profiling quantization scale_out",
        "workflow": (
            "analysis api compiler config cpu distances errors files importer ir library ops process_state profiling "
            "quantization quantization.spec recipes report runtime samples scale_out schema targets"
        ),
        "diagnosis": "analysis api config errors files ir process_state report samples scale_out workflow",
        "cli": (
            "analysis config diagnosis errors files importer ir library profiling quantization recipes report runtime "
            "samples targets workflow"
        ),
        "__main__": "cli",
    }.items()
}
"""What each part of the package may import from the others."""

KERNELS_MAY_IMPORT: Mapping[str, frozenset[str]] = {
    room: frozenset(others.split())
    for room, others in {
        "lib": "",
        "operation": "",
        "isa": "lib",
        "machine": "isa",
        "naming": "isa operation",
        "probes": "isa lib",
        "statistics": "lib",
        "gemm": "isa lib machine operation",
        "depthwise": "gemm isa lib machine operation",
        "winograd": "gemm isa lib machine operation",
        "ops": "gemm isa lib machine operation",
        "registry": "depthwise gemm isa machine operation ops winograd",
    }.items()
}
"""The same within `kernels`."""

MODULES_OF: Mapping[str, tuple[str, ...]] = {
    "apache-tvm": ("tvm", "tvm_ffi"),
    "onnx": ("google", "onnx"),
    "pillow": ("PIL",),
    "pyelftools": ("elftools",),
    "scikit-image": ("skimage",),
}
"""Modules of packages whose names aren't those of their modules, and of what they themselves depend on."""

OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "PIL": ("samples/images.py",),
    "distributed": ("scale_out/dask.py",),
    "matplotlib": ("report/plots.py", "recipes/text.py"),
    "skimage": ("recipes/samples.py",),
    "onnxruntime": ("importer/verify.py",),
}
"""What is imported when it is there, or when a recipe asks for it, and where."""

DYNAMIC = ("pipeline/__init__.py", "pipeline/cli/__init__.py")
"""Where modules are imported by names that are computed: the package's exports, and its commands."""


def files() -> Iterator[Path]:
    return ROOT.rglob("*.py")


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST) -> list[str]:
    """Return the full names of the modules that a node imports, or of what it imports from them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide what is imported"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        # The package's own name stands for its data files.
        if name in ("import_module", "__import__", "find_spec", "files") and node.args[0].value != "pipeline":
            return [str(node.args[0].value)]
    return []


def imports_of(file: Path) -> set[str]:
    """Return all that a file imports, its functions' own imports included."""
    return {name for node in ast.walk(tree(file)) for name in imported(node)}


def part_of(module: str) -> str:
    """Return the part that a module belongs to: a package, or a part of one that is listed on its own."""
    parts = module.split(".")
    inner = ".".join(parts[1:3])
    return inner if inner in MAY_IMPORT else parts[1]


def parts() -> dict[str, set[str]]:
    """Return which other parts of the package each part imports."""
    found: dict[str, set[str]] = {}
    for file in files():
        if file != ROOT / "__init__.py":
            own = part_of(module_of(file))
            used = {part_of(name) for name in imports_of(file) if name.startswith("pipeline.")}
            found.setdefault(own, set()).update(used - {own})
    return found


def test_every_part_has_its_place() -> None:
    assert set(parts()) == set(MAY_IMPORT)


def test_parts_import_what_they_may() -> None:
    wrong = {part: used - MAY_IMPORT[part] for part, used in parts().items() if used - MAY_IMPORT[part]}
    assert wrong == {}, "not in MAY_IMPORT; see docs/architecture.md"


def test_rooms_of_kernels_import_what_they_may() -> None:
    found: dict[str, set[str]] = {}
    for file in (ROOT / "kernels").rglob("*.py"):
        if file != ROOT / "kernels" / "__init__.py":
            used = {name.split(".")[2] for name in imports_of(file) if name.startswith("pipeline.kernels.")}
            own = module_of(file).split(".")[2]
            found.setdefault(own, set()).update(used - {own})
    assert set(found) == set(KERNELS_MAY_IMPORT)
    wrong = {room: used - KERNELS_MAY_IMPORT[room] for room, used in found.items() if used - KERNELS_MAY_IMPORT[room]}
    assert wrong == {}, "not in KERNELS_MAY_IMPORT"


def test_what_parts_may_import_has_no_circle() -> None:
    # It raises CycleError.
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert set(order) == set(MAY_IMPORT)


def test_modules_import_each_other_without_circles() -> None:
    names = {module_of(file) for file in files()}

    def module(name: str) -> str | None:
        """Return the module that a name is, or is of; a package's own modules may name it for its contents."""
        return name if name in names else name.rpartition(".")[0] if name.rpartition(".")[0] in names else None

    graph = {
        module_of(file): {m for name in imports_of(file) if (m := module(name)) not in (None, module_of(file))}
        for file in files()
        if file != ROOT / "__init__.py"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_the_compiler_knows_no_other_stage() -> None:
    stages = {"importer", "passes.float", "quantization", "runtime", "reference", "samples"}
    assert not stages & MAY_IMPORT["compiler"]


def test_kernels_do_not_know_relax() -> None:
    for file in (ROOT / "kernels").rglob("*.py"):
        assert not any("relax" in name.split(".") for name in imports_of(file)), file
        mentioned = {n.attr for n in ast.walk(tree(file)) if isinstance(n, ast.Attribute)}
        assert "relax" not in mentioned, file


def test_private_names_of_tvm_are_in_one_place() -> None:
    for file in files():
        if "tvm_private" in file.parts:
            continue
        imports = [n for n in ast.walk(tree(file)) if isinstance(n, ast.Import | ast.ImportFrom)]
        ours = {a.asname or a.name.partition(".")[0] for n in imports for a in n.names if imported(n)[0][:3] == "tvm"}
        used = [n for n in ast.walk(tree(file)) if isinstance(n, ast.Attribute) and n.attr.startswith("_")]
        private = {name for n in imports for name in imported(n) if name.startswith("tvm") and "._" in name}
        private |= {ast.unparse(n) for n in used if ast.unparse(n.value).partition(".")[0] in ours}
        assert private == set(), file


def modules(requirements: list[str]) -> set[str]:
    """Return the modules that requirements bring."""
    names = [requirement.partition(";")[0] for requirement in requirements]
    plain = ["".join(c if c.isalnum() or c in "-_" else " " for c in name).split()[0] for name in names]
    return {module for name in plain for module in MODULES_OF.get(name, (name,))}


def test_only_declared_dependencies_are_imported() -> None:
    known = modules(PROJECT["dependencies"]) | sys.stdlib_module_names | {"pipeline"}
    for file in files():
        foreign = {name.partition(".")[0] for name in imports_of(file)} - known
        allowed = {name for name, places in OPTIONAL.items() if file.relative_to(ROOT).as_posix() in places}
        assert foreign <= allowed, file


def test_what_is_optional_is_declared() -> None:
    extras = PROJECT["optional-dependencies"].values()
    assert set(OPTIONAL) <= {module for requirements in extras for module in modules(requirements)}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, own in OPTIONAL.items() for place in own])
def test_what_is_optional_is_imported_within_functions(name: str, place: str) -> None:
    if (ROOT / place).exists():
        outside = [node for node in tree(ROOT / place).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        found = {module.partition(".")[0] for top in outside for node in ast.walk(top) for module in imported(node)}
        assert name not in found


def test_computed_names_are_imported_where_it_is_known() -> None:
    for file in files():
        calls = [n for n in ast.walk(tree(file)) if isinstance(n, ast.Call)]
        computed = [
            n
            for n in calls
            if getattr(n.func, "attr", "") == "import_module" and not isinstance(n.args[0], ast.Constant)
        ]
        assert not computed or str(file.relative_to(ROOT.parent)) in DYNAMIC, file


def test_all_errors_are_one_family_and_are_in_its_picture() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(c, errors.PipelineError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)
    assert {c.exit_code for c in classes} == {1, 2}
