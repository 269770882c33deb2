"""The listings of README and docs work: they are run, in order, in a folder with a model and samples."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.cli import main
from pipeline.quantization import observers
from tests.docs.given import write_models, write_pictures, write_samples
from tests.docs.listings import DOCUMENTS, ROOT, Listing, listings

NOT_RUN = {
    ("README.md", "ONNX -> Relax"): "a picture",
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install . &&"): "it makes an environment; .ci/run does so",
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install '.[test]'"): "it runs this very test",
    ("README.md", ".venv/bin/python -m tests.networks"): "it takes hours; parts of it are tests",
    ("README.md", "pipeline bench out/model.android-arm64.so --rpc"): "it needs a device; see tests/runtime",
    ("architecture.md", "model.onnx ─ importer"): "a picture",
    ("command-line.md", 'eval "$(_PIPELINE_COMPLETE'): "it is for a shell; see tests/cli",
    ("deploy.md", "pipeline profile model.android-arm64.so --rpc"): "it needs a device; see tests/profiling",
    ("deploy.md", "python -m tvm.exec.rpc_server"): "it listens on the network; tests/runtime does",
    ("deploy.md", "python -m tvm.exec.rpc_tracker"): "it listens on the network; tests/runtime does",
    (
        "deploy.md",
        'with pipeline.RemoteRunner("model.android-arm64.so"',
    ): "it needs a device; see tests/runtime",
    ("deploy.md", "apt-get install"): "it installs packages; .ci/run does so",
    ("kernels.md", "pixel x:"): "a picture",
    ("performance.md", "pip install '.[bench]'"): "it takes an hour, and packages that tests don't have",
    ("performance.md", "python -m benchmarks.cost_model measure"): "it takes minutes, and a quiet machine",
    ("scale-out.md", "pip install"): "it installs packages; .ci/run does so",
    ("scale-out.md", "pipeline build"): "it starts processes; tests/scale_out does",
    ("scale-out.md", "dask scheduler"): "it listens on the network; tests/scale_out does",
}
"""Listings, and commands of listings, that this test can't run: document and beginning -> why."""

EXCERPTS = {
    ("adding-an-operator.md", "@dataclass(frozen=True)"): ROOT / "pipeline/ops/elementwise.py",
    ("adding-an-operator.md", "def qmultiply("): ROOT / "pipeline/kernels/ops/elementwise.py",
    ("adding-an-operator.md", "@quantization_rule("): ROOT / "pipeline/quantization/rules/elementwise.py",
    ("kernels.md", "..._permuted = R.call_tir"): Path("dump/x86-64-v4-vnni/*-remove_dead_code.py"),
    ("kernels.md", "for v in range(4):"): Path("dump/x86-64-v4-vnni/*-select_kernels.py"),
    ("kernels.md", ".LBB"): Path("dump/x86-64-v4-vnni/kernels.s"),
    ("kernels.md", "vfmadd213ps"): Path("dump/x86-64-v4-vnni/kernels.s"),
    ("kernels.md", "vmovdqa64"): Path("dump/x86-64-v4-vnni/kernels.s"),
}
"""Listings that show parts of a file: of this repository, or one that a command has written before."""


def found(table: dict[tuple[str, str], object], document: str, line: str) -> object:
    return next((v for (d, beginning), v in table.items() if d == document and line.startswith(beginning)), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models that the listings expect; the fixture `x` adds samples and pictures."""
    write_models(tmp_path)
    # Algorithms that a listing adds are removed after the test.
    monkeypatch.setattr(observers, "ALGORITHMS", dict(observers.ALGORITHMS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def x(folder: Path) -> np.ndarray:
    write_samples(folder)
    write_pictures(folder)
    return np.load(folder / "samples" / "0.npy")


def test_every_exception_is_one() -> None:
    lines = {(d.name, line) for d in DOCUMENTS for each in listings(d) for line in (each.first_line, *each.commands())}
    for table in (NOT_RUN, EXCERPTS):
        for document, beginning in table:
            assert any(d == document and line.startswith(beginning) for d, line in lines), beginning


@pytest.mark.parametrize("name", [d.name for d in DOCUMENTS if d.name not in ("kernels.md", "deploy.md")])
def test_listings_do_what_they_show(name: str, x: np.ndarray) -> None:
    _run_document(name, x)


def test_listings_that_begin_with_a_library(x: np.ndarray) -> None:
    pipeline.quantize(pipeline.load("model.onnx"), [x]).build("host", "model.host.so")
    _run_document("deploy.md", x)


def test_listings_that_begin_with_nothing(folder: Path) -> None:
    _run_document("kernels.md", None)


def _run_document(name: str, x: np.ndarray | None) -> None:
    (document,) = (d for d in DOCUMENTS if d.name == name)
    names = {"x": x, "samples": [x]}
    for listing in listings(document):
        if found(NOT_RUN, name, listing.first_line):
            continue
        source = found(EXCERPTS, name, listing.first_line)
        if isinstance(source, Path):
            (file,) = source.parent.glob(source.name)
            _compare_excerpt(listing, file)
        elif listing.language == "python":
            _run_python(listing, names)
        elif listing.language == "json":
            json.loads(listing.text)
        elif listing.language == "toml":
            Path("target.toml").write_text(listing.text, encoding="utf-8")
            pipeline.targets.load_target(Path("target.toml"))
        else:
            _run_commands(listing)


def _run_python(listing: Listing, names: dict[str, object]) -> None:
    """Run a listing; one that begins with a file's name is written there, for a command to run."""
    file = re.fullmatch(r"# (\w+\.py)", listing.first_line)
    if file:
        Path(file[1]).write_text(listing.text, encoding="utf-8")
    else:
        exec(compile(listing.text, listing.document, "exec", dont_inherit=True), names)  # noqa: S102 - it is a listing of this repository


def _run_commands(listing: Listing) -> None:
    """Run a listing's commands; of one with a prompt, compare what the command prints.

    One with `|| echo` must end with code 1.
    """
    if listing.first_line.startswith("$ "):
        _, _, expected = listing.text.partition("\n")
        assert _output_of(listing.first_line.removeprefix("$ ")) == expected
        return
    for line in listing.commands():
        if not found(NOT_RUN, listing.document, line):
            work, fails, _ = line.partition(" || echo ")
            with pytest.raises(SystemExit, match=r"^1$") if fails else contextlib.nullcontext():
                for command in work.split(" && "):
                    _output_of(command)


def _output_of(command: str) -> str:
    """Run a command in this process, and return what it prints; it must succeed."""
    program, *arguments = shlex.split(command)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *arguments])
        if program == "pipeline":
            main()
        elif program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
        elif program == "mkdir":
            Path(arguments[0]).mkdir()
        else:
            pytest.fail(f"Neither run nor listed in NOT_RUN: {command}")
    return printed.getvalue()


def _compare_excerpt(listing: Listing, source: Path) -> None:
    """Look for every part of a listing in the file that it is from; "..." is anything.

    Parts of programs come in order; instructions, which a compiler orders as it likes, are only looked for.
    """
    lines = [line.partition("  #")[0] for line in listing.text.splitlines()]
    ordered = listing.language != "asm"
    remaining = _normalized(source.read_text(encoding="utf-8"), listing.language)
    for text in ["\n".join(lines)] if ordered else lines:
        for piece in _normalized(text, listing.language).split("..."):
            place = remaining.find(piece)
            assert place >= 0, f"{source} has no {piece!r} here"
            remaining = remaining[place + len(piece) :] if ordered else remaining


def _normalized(text: str, language: str) -> str:
    """Return text without white space and last commas; assembly without comments, registers and addresses, too."""
    if language == "asm":
        text = re.sub(r"#.*", "", text)
        text = re.sub(r"-?\d*\(.*?\)|%\w+|\.LBB\w+", "@", text)
    return re.sub(r"\s+", "", text).replace(",)", ")")
